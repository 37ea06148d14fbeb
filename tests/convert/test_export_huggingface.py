"""`--save-format huggingface`: transformers alone loads the folder, and it is the model that was trained."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlavaNextForConditionalGeneration,
)

from tests.convert.conftest import LORA, Train, Trained
from tests.part_library import PartLibrary
from tests.standins import make_llama
from vlmtool.chat.generator import Generator
from vlmtool.chat.load import load_chat_model
from vlmtool.chat.prompt import Request
from vlmtool.chat.sampling import GenerationSettings
from vlmtool.convert.merge import merge_folder
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.data.conversation import Image, Message, user
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.models.manifest import read_lineage, read_manifest
from vlmtool.utils.errors import UsageError

CLOSE = {"rtol": 0.0, "atol": 1e-4}  # float32, sums in another order
QUESTION = "What is in the picture?"
GREEDY = GenerationSettings(max_new_tokens=12)
GRIDS = ((1, 2), (2, 1), (2, 2))
# width, height: lying, standing, square, very long
SIZES = [(61, 37), (30, 47), (40, 40), (90, 20)]


@dataclass(frozen=True)
class Opened:
    """A folder as transformers opens it."""

    processor: Any
    model: torch.nn.Module

    def read(self, *pictures: Path) -> dict[str, torch.Tensor]:
        """What the model gets of a question about each picture."""
        chats = [[{"role": "user", "content": typed(picture)}] for picture in pictures]
        return self.processor.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        )  # fmt: skip


def typed(picture: Path) -> list[dict[str, str]]:
    return [{"type": "image", "path": str(picture)}, {"type": "text", "text": QUESTION}]


def opened(folder: Path) -> Opened:
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    return Opened(AutoProcessor.from_pretrained(folder), model)


def exported(run: Trained, tmp_path: Path) -> Path:
    return pth_to_hf(run.recipe, run.path, tmp_path / "export", "huggingface", fp32=True)


def photo(folder: Path, size: tuple[int, int] = SIZES[0]) -> Path:
    """A JPEG of coarse noise."""
    noise = torch.randint(0, 256, (5, 7, 3), generator=torch.Generator().manual_seed(sum(size)), dtype=torch.uint8)
    path = folder / f"{size[0]}x{size[1]}.jpg"
    PILImage.fromarray(noise.numpy()).resize(size, PILImage.Resampling.BICUBIC).save(path, quality=90)
    return path


def question(picture: Path) -> Request:
    return Request((user(Image(str(picture)), "\n", QUESTION),))


@torch.no_grad()
def trained_logits(chat: Generator, model: torch.nn.Module, picture: Path) -> torch.Tensor:
    """(T, V) of the training model, on what `chat` reads."""
    batch = chat.prepare([question(picture)])
    ids = torch.tensor([batch.prompts[0].input_ids])
    return model.eval().llm(inputs_embeds=model.embed(ids, model.encode_images(batch.pixels))).logits[0].float()


@torch.no_grad()
def new_tokens(hf: Opened, *pictures: Path) -> list[str]:
    inputs = hf.read(*pictures)
    ids = hf.model.generate(**inputs, max_new_tokens=GREEDY.max_new_tokens, do_sample=False)
    return hf.processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def assert_same(run: Trained, folder: Path, tmp_path: Path, pictures: list[Path]) -> None:
    """Prompts, logits and greedy answers of the export are those of the training model and of its model folder."""
    plain = pth_to_hf(run.recipe, run.path, tmp_path / "plain", fp32=True)
    manifest = read_manifest(plain)
    if manifest.llm.adapter or manifest.vision_encoder.adapter:
        plain = merge_folder(plain, tmp_path / "merged")
    chat, hf = load_chat_model(str(plain), device="cpu"), opened(folder)
    for picture in pictures:
        inputs = hf.read(picture)
        assert inputs["input_ids"][0].tolist() == chat.prepare([question(picture)]).prompts[0].input_ids
        with torch.no_grad():
            found = hf.model(**inputs).logits[0]
        wanted = trained_logits(chat, run.model, picture)
        torch.testing.assert_close(found[:, : wanted.shape[1]], wanted, **CLOSE)
        if found.shape[1] > wanted.shape[1]:  # the image tag's row never wins
            assert (found[:, wanted.shape[1] :].amax(1) < wanted.amax(1)).all()
    answers = chat.generate([question(picture) for picture in pictures], GREEDY)
    assert any(answers) and [text.strip() for text in new_tokens(hf, *pictures)] == [a.strip() for a in answers]


@pytest.mark.parametrize("name", ["adapters", "siglip", "full", "layer", "unpadded"])
def test_transformers_alone_gives_the_training_model(name, train: Train, standins, tmp_path):
    siglip = {"path": str(standins.siglip), "lora": LORA}
    internlm = {"path": str(standins.internlm), "template": "internlm_chat", "lora": {**LORA, "dora": True}}
    data = {"path": str(standins.data), "pad_to_square": False}
    run = {
        "adapters": lambda: train(llm={"lora": LORA}, vision_encoder={"lora": LORA}),
        "siglip": lambda: train(llm=internlm, vision_encoder=siglip),
        "full": lambda: train(llm={"freeze": False}, vision_encoder={"freeze": False}),
        "layer": lambda: train(vision_encoder={"select_layer": -1, "select_strategy": "full"}),
        "unpadded": lambda: train(llm={"lora": LORA}, projector={"hidden_act": "silu", "bias": False}, data=data),
    }[name]()  # fmt: skip
    folder = exported(run, tmp_path)
    assert_same(run, folder, tmp_path, [photo(tmp_path, size) for size in SIZES[:3]])


FAMILIES = {
    "Qwen/Qwen2.5-0.5B-Instruct": "qwen_chat",  # tied embeddings, no BOS
    "microsoft/Phi-3-mini-4k-instruct": "phi3_chat",
    "google/gemma-2b-it": "gemma",
    "THUDM/glm-4-9b-chat-hf": "glm4_chat",
    "THUDM/chatglm3-6b": "chatglm3",  # code of its own: the native class
    "internlm/internlm2-chat-7b": "internlm2_chat",
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> PartLibrary:
    return PartLibrary(tmp_path_factory.mktemp("parts"))


@pytest.mark.parametrize("hub_id", FAMILIES)
def test_language_models_of_other_families(hub_id, parts, train: Train, tmp_path):
    run = train(llm={"path": parts.llm(hub_id), "template": FAMILIES[hub_id], "lora": LORA})
    assert_same(run, exported(run, tmp_path), tmp_path, [photo(tmp_path)])


def test_dinov2_at_a_size_of_its_own(parts, train: Train, tmp_path):
    encoder = {"path": parts.vision_encoder("facebook/dinov2-large"), "image_size": 48, "select_layer": -1}
    run = train(vision_encoder=encoder)
    assert_same(run, exported(run, tmp_path), tmp_path, [photo(tmp_path, size) for size in SIZES[:2]])


def test_tiles(train: Train, tmp_path):
    data = {"path": "x.json", "pad_to_square": False}
    run = train(llm={"lora": LORA}, vision_encoder={"tiles": GRIDS}, data=data)
    folder = exported(run, tmp_path)
    assert_same(run, folder, tmp_path, [photo(tmp_path, size) for size in SIZES])
    hf = opened(folder)
    assert isinstance(hf.model, LlavaNextForConditionalGeneration)
    lengths = {hf.read(photo(tmp_path, size))["input_ids"].shape[1] for size in SIZES}
    assert len(lengths) > 1  # the pictures do take different numbers of tokens


def test_quantised_training(train: Train, tmp_path):
    run = train(llm={"lora": LORA, "quantization": "nf4"})
    folder, picture = exported(run, tmp_path), photo(tmp_path)
    chat = load_chat_model(str(pth_to_hf(run.recipe, run.path, tmp_path / "plain")), device="cpu")
    hf = opened(folder)
    with torch.no_grad():
        found = hf.model(**hf.read(picture)).logits[0]
    wanted = trained_logits(chat, chat.model, picture)  # adapter on the base as it is
    torch.testing.assert_close(found[:, : wanted.shape[1]], wanted, **CLOSE)
    nf4 = trained_logits(chat, run.model, picture)
    # NF4 rounds the base's weights: that much for weights at random, whose 64 columns average little of it out.
    difference = (found[:, : wanted.shape[1]] - nf4).abs().mean() / nf4.std()
    agreeing = (found.argmax(1) == nf4.argmax(1)).float().mean()
    assert 0.01 < difference < 0.5 < agreeing < 1


def test_files(train: Train, standins, tmp_path):
    folder = exported(train(llm={"lora": LORA}), tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
        "vlmtool_lineage.json",
    ]  # fmt: skip
    said = json.loads((folder / "config.json").read_text())
    assert said["architectures"] == ["LlavaForConditionalGeneration"]
    assert (said["image_token_index"], said["text_config"]["vocab_size"]) == (384, 385)
    assert (said["vision_feature_layer"], said["vision_feature_select_strategy"]) == (-2, "default")
    assert str(standins.llama.parent) not in json.dumps(said)  # no path of this machine
    names = load_file(folder / "model.safetensors")
    assert {".".join(name.split(".")[:2]) for name in names} == {
        "language_model.model", "language_model.lm_head", "multi_modal_projector.linear_1",
        "multi_modal_projector.linear_2", "vision_tower.vision_model",
    }  # fmt: skip
    for name in ("model.embed_tokens", "lm_head"):  # the mean of the others
        table = names[f"language_model.{name}.weight"]
        torch.testing.assert_close(table[384], table[:384].mean(0))
    assert len([name for name in names if ".layer_norm1.weight" in name]) == 3  # with the block above the selected one


@pytest.mark.parametrize(
    "name", ["vicuna", "plain", "llama2_chat", "llama3_chat", "qwen_chat", "internlm2_chat", "mistral"]
)
def test_templates_render_text_and_typed_content(name, train: Train, tmp_path):
    """Several turns; the picture at the front, in the middle, and twice."""
    run = train(llm={"template": name})
    folder = exported(run, tmp_path)
    processor = AutoProcessor.from_pretrained(folder)
    chat = load_chat_model(str(pth_to_hf(run.recipe, run.path, tmp_path / "plain")), device="cpu")
    path = str(photo(tmp_path))
    picture, image = {"type": "image", "path": path}, Image(path)
    first, second = "What is in the picture?", "Which colour is it?"
    chats = [
        ([picture, text(first)], "<image>\n" + first, (image, "\n", first)),
        ([picture, text("\n" + first)], "<image>\n" + first, (image, "\n" + first)),
        ([picture, picture, text(first)], "<image><image>\n" + first, (image, image, "\n", first)),
        ([text("Here: "), picture, text("?")], "Here: <image>?", ("Here: ", image, "?")),
        ([picture, text(" shows what?")], "<image> shows what?", (image, " shows what?")),
        ([text(first)], first, (first,)),
    ]
    for parts, words, ours in chats:
        for before in ((), (Message("user", (second,)), Message("assistant", ("A red circle.",)))):
            turns = [{"role": message.role, "content": message.content[0]} for message in before]
            wanted = chat.renderer.prompt([*before, user(*ours)])
            images = [path] * sum(part is picture for part in parts)
            for content, given in ((parts, {}), (words, {"images": images} if images else {})):
                found = processor.apply_chat_template(
                    [*turns, {"role": "user", "content": content}], add_generation_prompt=True, tokenize=True,
                    return_dict=True, processor_kwargs=given,
                )["input_ids"]  # fmt: skip
                assert list(found[0]) == wanted


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_a_tokenizer_that_adds_tokens_of_its_own(train: Train, tmp_path):
    """BOS comes once where the template prints it, and not at all where it prints none."""
    base = make_llama(tmp_path / "base", 1)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
    tokenizer.save(str(base / "tokenizer.json"))
    for template, count in (("vicuna", 1), ("qwen_chat", 0)):
        run = train(llm={"path": str(base), "template": template})
        ids = opened(exported(run, tmp_path)).read(photo(tmp_path))["input_ids"][0].tolist()
        assert ids.count(0) == count


def test_where_answers_end(train: Train, standins, tmp_path):
    run = train(llm={"path": str(standins.internlm), "template": "internlm_chat"})
    folder = exported(run, tmp_path)
    said = json.loads((folder / "generation_config.json").read_text())
    tokenizer = load_tokenizer(standins.internlm)
    assert said["eos_token_id"] == sorted(tokenizer.convert_tokens_to_ids(["</s>", "<eoa>"]))
    assert (said["bos_token_id"], said["pad_token_id"], said["suppress_tokens"]) == (0, 2, [384])


def test_types_follow_the_language_model(train: Train, tmp_path):
    base = make_llama(tmp_path / "half", 1, dtype=torch.bfloat16)
    run = train(llm={"path": str(base), "lora": LORA}, vision_encoder={"lora": LORA})
    for fp32, expected in ((False, torch.bfloat16), (True, torch.float32)):
        folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf", "huggingface", fp32, "300KB")
        files = list(folder.glob("model-*.safetensors"))
        assert len(files) > 1 and {t.dtype for f in files for t in load_file(f).values()} == {expected}
        assert opened(folder).model.dtype == expected


def test_lineage(train: Train, standins, tmp_path):
    run = train(llm={"lora": LORA})
    folder = exported(run, tmp_path)
    assert read_manifest(folder) is None  # it is read by its own files
    lineage = read_lineage(folder)
    assert lineage.layout == "huggingface" and lineage.llm.base == str(standins.llama)
    assert lineage.parents[0]["stage"]["llm"] == "lora r=8 alpha=16"
    assert set(lineage.files) == {file.name for file in folder.iterdir()} - {"vlmtool_lineage.json", "README.md"}
    exported(run, tmp_path)  # its own folder is replaced
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds 'mine\.txt'"):
        exported(run, tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"projector": {"depth": 3}}, "a projector of depth 3, only one of 2"),
        ({"projector": {"type": "vlmtool.models.projectors.linear.LinearProjector"}}, "a LinearProjector"),
        ({"vision_encoder": {"image_size": 64}}, r"vision_encoder\.image_size = 64"),
        ({"llm": {"prefix": {"num_tokens": 3}}}, "a prefix"),
    ],
)
def test_what_the_class_cannot_hold(change, told, train: Train, tmp_path):
    sections = {"projector": {"depth": 2}, **change}
    with pytest.raises(UsageError, match=told) as caught:
        exported(train(**sections), tmp_path)
    assert "--save-format vlmtool" in str(caught.value) and not (tmp_path / "export").exists()


def test_logits_that_are_more_than_the_head(train: Train, parts, tmp_path):
    config = Gemma2Config(
        vocab_size=384, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    base = make_llama(tmp_path / "gemma2", 1)
    Gemma2ForCausalLM(config).save_pretrained(base)
    with pytest.raises(UsageError, match="a Gemma2ForCausalLM: it changes its logits after the output head"):
        exported(train(llm={"path": str(base), "lora": LORA}), tmp_path)
