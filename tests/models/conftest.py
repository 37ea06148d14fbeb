"""Tiny parts in memory; every size a multiple of 64 where NF4 may come."""

from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.utils.pixels import Pixels

VOCABULARY = 128
IMAGE_TOKEN = VOCABULARY + 7  # outside the LLM's vocabulary, as with a tokenizer that got <image> added
TOKENS = 4  # 32 px, patch 16


def clip() -> CLIPVisionModel:
    """3 blocks, 4 patches and CLS."""
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=16
    )
    return CLIPVisionModel(config).eval()


def siglip() -> SiglipVisionModel:
    """3 blocks, 4 patches, no CLS."""
    torch.manual_seed(1)
    config = SiglipVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=16
    )
    return SiglipVisionModel(config).eval()


def llama() -> LlamaForCausalLM:
    """2 blocks."""
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def vlm() -> VisionLanguageModel:
    """A composed model: projector trained, the rest frozen, in training mode."""
    torch.manual_seed(3)
    projector = MLPProjector(64, 64)
    encoder = VisionEncoder(clip()).requires_grad_(False)
    return VisionLanguageModel(encoder, projector, llama().requires_grad_(False), IMAGE_TOKEN).train()


def batch(images_per_row: tuple[int, ...] = (1, 0, 2)) -> dict[str, Any]:
    """A right-padded batch; row i holds `images_per_row[i]` images and 3 + i supervised tokens."""
    generator = torch.Generator().manual_seed(4)
    rows = []
    for number, images in enumerate(images_per_row):
        text = torch.randint(3, VOCABULARY, (6 + number,), generator=generator)
        rows.append(torch.cat([torch.full((images * TOKENS,), IMAGE_TOKEN), text]))
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
    labels = torch.full_like(input_ids, -100)
    for number, row in enumerate(rows):
        labels[number, len(row) - 3 - number : len(row)] = row[-3 - number :]
    total = sum(images_per_row)
    pixels = torch.randn(total, 3, 32, 32, generator=generator) if total else None
    return {
        "input_ids": input_ids,
        "labels": labels,
        "pixels": Pixels.one_view_each(pixels) if pixels is not None else None,
    }
