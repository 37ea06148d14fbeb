"""Written in another tool's format and read back: the model answers as the one that vlmtool's own folder holds."""

import pytest
import torch

from tests.convert.conftest import LORA, input_ids, pixels
from vlmtool.chat.load import load_chat_model
from vlmtool.convert.pth_to_hf import pth_to_hf


@torch.no_grad()
def logits(generator):
    """Of a prompt with an image in it."""
    model = generator.model
    ids = input_ids()[:1]
    embeds = model.encode_images(pixels())[:1]
    places = torch.full((1, len(embeds[0])), model.image_token_id)
    ids = torch.cat([ids[:, :4], places, ids[:, 4:]], 1)
    return model.llm(inputs_embeds=model.embed(ids, embeds)).logits.float()


@pytest.mark.parametrize("save_format", ["huggingface", "official", "xtuner"])
@pytest.mark.parametrize("llm", [{"lora": LORA}, {"lora": LORA, "quantization": "nf4"}, {"freeze": False}])
def test_written_and_read_back_it_is_the_same_model(train, standins, tmp_path, capsys, save_format, llm):
    run = train(llm=llm, vision_encoder={"lora": LORA})
    own = load_chat_model(str(pth_to_hf(run.recipe, run.path, tmp_path / "own", fp32=True)))
    folder = str(pth_to_hf(run.recipe, run.path, tmp_path / save_format, save_format, fp32=True))
    if save_format == "xtuner":  # the bases stay beside it, as in XTuner's guide
        back = load_chat_model(str(standins.llama), folder, visual_encoder=str(standins.clip), prompt_template="vicuna")
        own_llm = "its own is used" in capsys.readouterr().err
        assert own_llm == (llm.get("freeze") is False)
    else:
        back = load_chat_model(folder, prompt_template="vicuna")
    assert back.identity != own.identity  # read from files of its own
    expected = logits(own)  # the huggingface format has a row for the image token
    torch.testing.assert_close(logits(back)[..., : expected.shape[-1]], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("save_format", ["huggingface", "official", "xtuner"])
def test_how_pictures_and_prompts_were_read_comes_back_too(train, standins, tmp_path, save_format):
    """Another layer, no padding, and a template that ends answers with a word of its own."""
    data = {"path": "x.json", "pad_to_square": False}
    reading = {"select_layer": -1, "lora": LORA}
    run = train(llm={"lora": LORA, "template": "internlm_chat"}, vision_encoder=reading, data=data)
    own = load_chat_model(str(pth_to_hf(run.recipe, run.path, tmp_path / "own", fp32=True)))
    folder = str(pth_to_hf(run.recipe, run.path, tmp_path / save_format, save_format, fp32=True))
    beside = (str(standins.llama), folder) if save_format == "xtuner" else (folder,)
    flags = {"prompt_template": "internlm_chat"} if save_format == "official" else {}
    back = load_chat_model(*beside, visual_encoder=str(standins.clip) if save_format == "xtuner" else None, **flags)
    reading = back.model.vision_encoder.reading
    assert reading.select_layer == -1 and not back.transform.views.pad_to_square
    assert back.renderer.template.stop_words == own.renderer.template.stop_words != ()
    expected = logits(own)
    torch.testing.assert_close(logits(back)[..., : expected.shape[-1]], expected, rtol=0, atol=1e-4)
