"""Tiny parts made on the spot: a byte-level tokenizer, an image processor, image files, record files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CLIPVisionConfig, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vlmtool.data.conversation import Image
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.render import Renderer
from vlmtool.data.templates.library import find_template
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.data.views import OneView

SPECIAL = ["<s>", "</s>", "<pad>", "<eoh>", "<eoa>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>",
           "<|end_header_id|>", "<|eot_id|>"]  # fmt: skip
TEXT = (
    "What is in the picture? A red circle above a blue square.\n\nIt is round.\n\n\nUSER ASSISTANT user assistant " * 20
)
NUM_IMAGE_TOKENS = 4


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE with merges, two line ends in one token among them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)  # as Llama 3's
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    folder = tmp_path_factory.mktemp("llm")
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(tokenizer_folder)


@pytest.fixture
def renderer(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Renderer]:
    """`renderer("vicuna")`; every image takes NUM_IMAGE_TOKENS tokens."""
    return lambda name: Renderer(tokenizer, find_template(name, None), four_tokens)


def four_tokens(image: Image) -> int:
    return NUM_IMAGE_TOKENS


@pytest.fixture(scope="session")
def processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory, processor: CLIPImageProcessorPil) -> Path:
    """Configs of a CLIP with 2 × 2 patches, and no weights."""
    folder = tmp_path_factory.mktemp("encoder")
    CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    ).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """`picture("a.png", width=20, height=10)` writes noise into `images/` and returns the path."""

    def make(name: str, width: int = 20, height: int = 10) -> Path:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
        PILImage.fromarray(pixels).save(path)
        return path

    return make


@pytest.fixture
def transform(tmp_path: Path, processor: CLIPImageProcessorPil) -> ImageTransform:
    return ImageTransform(OneView(processor, NUM_IMAGE_TOKENS), tmp_path / "images")


@pytest.fixture
def write_records(tmp_path: Path) -> Callable[..., Path]:
    """`write_records([record, "a broken line"])` writes JSON Lines and returns the path."""

    def write(records: list[Any], name: str = "data.jsonl") -> Path:
        lines = [item if isinstance(item, str) else json.dumps(item) for item in records]
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write
