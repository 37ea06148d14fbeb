"""Each way of tuning from checkpoint to model folder to chat and merge, against the model as it was trained."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from tests.convert.conftest import Train, Trained, features, input_ids, logits, pixels, plain_llm
from tests.convert.test_commands import vlmtool
from tests.models.test_tuning import KINDS, WAYS
from vlmtool.chat.load import load_chat_model
from vlmtool.convert.inspect_part import adapter_report
from vlmtool.convert.merge import merge_folder, merge_part
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.models.folder import load_tensors
from vlmtool.models.lineage import stage_of
from vlmtool.models.lora import name_in_file, name_in_model
from vlmtool.models.manifest import read_manifest
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.models.weights import of_part, saved_names
from vlmtool.recipe.load import recipe_text
from vlmtool.utils.errors import CheckpointError, UsageError

BITS = {None: None, "nf4": 4, "int8": 8}
SAID = {
    "lora": "lora r=4 alpha=8",
    "dora": "dora r=4 alpha=8",
    "rslora": "lora r=4 alpha=8 rslora",
    "dora rslora": "dora r=4 alpha=8 rslora",
    "prefix": "prefix num_tokens=3",
}
LORAS = ["dora", "rslora", "dora rslora"]


@torch.no_grad()
def whole_logits(model: VisionLanguageModel) -> torch.Tensor:
    """Of two rows, each an image and 12 tokens."""
    ids = torch.cat([torch.full((2, 4), model.image_token_id), input_ids()], dim=1)
    return model.eval().llm(inputs_embeds=model.embed(ids, model.encode_images(pixels()))).logits.float()


def converted(run: Trained, tmp_path: Path) -> Path:
    return pth_to_hf(run.recipe, run.path, tmp_path / "hf")


@pytest.mark.parametrize(("kind", "quantization"), WAYS)
def test_the_folder_answers_as_what_was_trained(train: Train, tmp_path, kind, quantization):
    run = train(llm={**KINDS[kind], "quantization": quantization})
    folder = converted(run, tmp_path)
    chat = load_chat_model(str(folder), bits=BITS[quantization], device="cpu").model
    torch.testing.assert_close(whole_logits(chat), whole_logits(run.model), rtol=0, atol=1e-5)
    untrained = train(llm={"quantization": quantization}).model
    assert (whole_logits(untrained) - whole_logits(run.model)).abs().max() > 0.1


@pytest.mark.parametrize(("kind", "quantization"), WAYS)
def test_peft_alone_reads_the_adapter(train, standins, tmp_path, kind, quantization):
    run = train(llm={**KINDS[kind], "quantization": quantization})
    folder = converted(run, tmp_path)
    theirs = PeftModel.from_pretrained(plain_llm(standins.llama), folder / "llm_adapter")
    names = load_tensors(folder / "llm_adapter" / "adapter_model.safetensors").keys()
    assert names == get_peft_model_state_dict(theirs).keys()
    if quantization is None:
        torch.testing.assert_close(logits(theirs), logits(run.model.llm), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", LORAS)
def test_merged_it_answers_the_same(train, tmp_path, kind):
    run = train(llm=KINDS[kind], vision_encoder=KINDS[kind])
    merged = merge_folder(converted(run, tmp_path), tmp_path / "merged")
    assert not list(merged.glob("*_adapter"))
    chat = load_chat_model(str(merged), device="cpu").model
    torch.testing.assert_close(whole_logits(chat), whole_logits(run.model), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "quantization"), [way for way in WAYS if way[0] in LORAS and way[1]])
def test_an_adapter_of_a_quantised_base_merges_into_the_original_weights(train, standins, tmp_path, kind, quantization):
    folder = converted(train(llm={**KINDS[kind], "quantization": quantization}), tmp_path)
    merged = merge_part(str(standins.llama), str(folder / "llm_adapter"), tmp_path / "merged")
    theirs = PeftModel.from_pretrained(plain_llm(standins.llama), folder / "llm_adapter").merge_and_unload()
    torch.testing.assert_close(plain_llm(merged).state_dict(), theirs.state_dict(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", LORAS)
def test_an_encoder(train, standins, tmp_path, kind):
    run = train(vision_encoder=KINDS[kind])
    folder = converted(run, tmp_path)
    chat = load_chat_model(str(folder), device="cpu").model
    with torch.no_grad():
        wanted = run.model.vision_encoder(pixels())[0]
        torch.testing.assert_close(chat.vision_encoder(pixels())[0], wanted, rtol=0, atol=1e-5)
    merged = merge_part(str(standins.clip), str(folder / "visual_encoder_adapter"), tmp_path / "merged")
    torch.testing.assert_close(features(CLIPVisionModel.from_pretrained(merged))[:, 1:], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_its_name_stands_in_the_records(train, tmp_path, kind):
    run = train(llm=KINDS[kind])
    folder = converted(run, tmp_path)
    assert stage_of(run.recipe.model_dump())["llm"] == SAID[kind]
    assert read_manifest(folder).parents[0]["stage"]["llm"] == SAID[kind]
    assert adapter_report(folder / "llm_adapter", verify=False).parts[0].trained == SAID[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_names_in_files_lead_back_to_the_model(train, kind):
    run = train(llm=KINDS[kind])
    names = list(of_part(dict.fromkeys(saved_names(run.model), torch.zeros(0)), "llm"))
    files = [name_in_file(name) for name in names]
    assert set(files) == get_peft_model_state_dict(run.model.llm).keys()
    assert [name_in_model(name) for name in files] == names


def test_a_prefix_cannot_be_merged(train, standins, tmp_path):
    folder = converted(train(llm=KINDS["prefix"], vision_encoder=KINDS["lora"]), tmp_path)
    calls = (
        lambda: merge_part(str(standins.llama), str(folder / "llm_adapter"), tmp_path / "merged"),
        lambda: merge_folder(folder, tmp_path / "merged"),
    )
    for call in calls:
        with pytest.raises(UsageError, match=r"is a prefix.*\n.*model folder that pth_to_hf wrote") as caught:
            call()
        assert len(str(caught.value).splitlines()) <= 3 and not (tmp_path / "merged").exists()


@pytest.mark.parametrize(("kind", "is_merged"), [("dora", True), ("prefix", False)])
def test_the_command_suggests_a_merge_where_one_can_be(train, tmp_path, capsys, kind, is_merged):
    run, recipe = train(llm=KINDS[kind]), tmp_path / "mine.py"
    recipe.write_text(recipe_text(run.recipe, "Mine."))
    assert vlmtool("pth_to_hf", recipe, run.path, tmp_path / "hf") == 0
    printed = capsys.readouterr().out
    assert "vlmtool chat" in printed and ("vlmtool convert merge" in printed) == is_merged


def test_a_prefix_of_another_model_is_refused(train, standins, tmp_path):
    folder = converted(train(llm=KINDS["prefix"]), tmp_path)
    config = LlamaConfig.from_pretrained(standins.llama)
    config.num_hidden_layers = 3
    other = tmp_path / "other"
    LlamaForCausalLM(config).save_pretrained(other)
    for file in standins.llama.glob("tokenizer*"):
        (other / file.name).write_bytes(file.read_bytes())
    moved = tmp_path / "moved"
    (folder / "llm_adapter").rename(moved)  # away from its manifest, which would tell
    with pytest.raises(CheckpointError, match="the part takes"):
        load_chat_model(str(other), adapter=str(moved), device="cpu", prompt_template="vicuna")


def test_a_checkpoint_without_the_weights_of_its_prefix_is_damaged(train, tmp_path):
    run, lora = train(llm=KINDS["prefix"]), train(llm=KINDS["lora"])
    checkpoint = torch.load(lora.path, weights_only=True)
    checkpoint["meta"]["recipe"]["llm"] |= {"lora": None, "prefix": {"num_tokens": 3}}
    torch.save(checkpoint, lora.path)
    with pytest.raises(CheckpointError, match="not those of a prefix"):
        pth_to_hf(run.recipe, lora.path, tmp_path / "hf")


def test_chat_refuses_dora_on_int8(train, tmp_path):
    folder = converted(train(llm=KINDS["dora"]), tmp_path)
    with pytest.raises(UsageError, match="does not go on int8"):
        load_chat_model(str(folder), bits=8, device="cpu")
