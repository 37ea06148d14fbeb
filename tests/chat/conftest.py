"""Tiny parts with seeded random weights, and a model made of them: float32, on the CPU, built in milliseconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image as PILImage
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from vlmtool.chat.generator import Generator
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.render import Renderer
from vlmtool.data.templates.library import parse_template
from vlmtool.data.tokenizer import image_token_id, load_tokenizer
from vlmtool.data.views import OneView
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.models.vlm import VisionLanguageModel

TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}{% generation %}{{- message['content'] + eos_token }}{% endgeneration %}"
    "{%- else %}{{- message['role'] + ':' + message['content'] + '\\n' }}{%- endif %}{%- endfor %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that a character of three bytes takes three tokens; then BOS and EOS."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = TEMPLATE
    return fast


def tiny_llm(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=258, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=256, eos_token_id=257, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def tiny_vision(seed: int = 0) -> CLIPVisionModel:
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=16,
        initializer_range=0.2,
    )  # fmt: skip
    return CLIPVisionModel(config).eval()


def image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for one another on parts this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_hash_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("VLMTOOL_CACHE", str(tmp_path_factory.getbasetemp() / "vlmtool_cache"))


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "llm"
    tiny_llm().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "clip"
    tiny_vision().save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def generator(llm_folder: Path) -> Generator:
    """A model with random weights, 4 image tokens per image, context 256; its answers are noise but always the same."""
    tokenizer = load_tokenizer(llm_folder)
    torch.manual_seed(1)
    encoder, projector = VisionEncoder(tiny_vision()), MLPProjector(64, 64)
    model = VisionLanguageModel(encoder, projector, tiny_llm(), image_token_id(tokenizer)).eval().requires_grad_(False)
    tokens = model.projector.num_tokens(model.vision_encoder.num_patches)
    transform = ImageTransform(OneView(image_processor(), tokens, pad_to_square=True))
    return Generator(model, Renderer(tokenizer, parse_template("tiny", TEMPLATE), transform.num_tokens), transform)


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Four picture files, each of one colour."""
    paths = []
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255)), ("grey", (99, 99, 99))):
        paths.append(str(tmp_path / f"{name}.png"))
        PILImage.new("RGB", (40, 30), colour).save(paths[-1])
    return paths
