"""Seeded tiny checkpoints that stand in for the real parts, class by class, and LLaVA records about drawn pictures.

Every width is a multiple of 64, because of NF4. What one call writes depends on its arguments alone.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage
from PIL import ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

VOCABULARY = 384
HIDDEN_SIZE = 64
IMAGE_SIZE = 32  # px
PATCH_SIZE = 16  # px: 4 patches
NUM_RECORDS = 32
SPECIAL = ["<s>", "</s>", "<pad>"]
INTERNLM_SPECIAL = [*SPECIAL, "<eoh>", "<eoa>", "<|User|>", "<|Bot|>", "<|System|>"]
COLOURS = {"red": (210, 40, 30), "green": (40, 170, 60), "blue": (40, 70, 210), "yellow": (230, 210, 50)}
SHAPES = ("circle", "square", "bar")
PICTURES = ((48, 36), (36, 48), (40, 40))  # px
# Half of it random letters: without merges enough, the vocabulary would be smaller than asked for.
TEXT = (
    "USER: What is in the picture? ASSISTANT: A red circle. Which colour is the square? It is blue, green or yellow. "
)


@dataclass(frozen=True)
class Standins:
    """Folders of the parts, the records file, and the folder of their pictures."""

    llama: Path
    internlm: Path
    clip: Path
    siglip: Path
    data: Path
    images: Path


def make_standins(folder: Path, seed: int = 0) -> Standins:
    """One stand-in of each kind below `folder`."""
    parts = Standins(
        *(folder / name for name in ("llama", "internlm", "clip", "siglip", "data/llava.json", "data/images"))
    )
    make_llama(parts.llama, seed + 1)
    make_llama(parts.internlm, seed + 2, attention_bias=True, special_tokens=INTERNLM_SPECIAL)
    make_clip(parts.clip, seed + 3)
    make_siglip(parts.siglip, seed + 4)
    make_llava_data(parts.data.parent, seed + 5)
    return parts


def make_llama(
    folder: Path,
    seed: int,
    attention_bias: bool = False,
    special_tokens: list[str] = SPECIAL,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A Llama of 2 blocks with its tokenizer; with `attention_bias` it has InternLM's structure."""
    tokenizer = make_tokenizer(special_tokens)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN_SIZE, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, attention_bias=attention_bias,
        initializer_range=0.1, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    llm = LlamaForCausalLM(config)
    for name, weight in llm.named_parameters():
        if name.endswith("bias"):  # zeros, as fresh ones are, would hide a lost bias
            torch.nn.init.normal_(weight, std=0.1)
    llm.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(
    special_tokens: list[str] = SPECIAL, bos: str | None = "<s>", eos: str = "</s>", pad: str | None = "<pad>"
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `VOCABULARY` tokens; the first ids are those of `special_tokens`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    letters = random.Random(0)
    noise = " ".join("".join(letters.choices("aeinorst", k=5)) for _ in range(200))
    tokenizer.train_from_iterator([TEXT * 20, noise], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad, model_max_length=1024
    )
    assert len(fast) == VOCABULARY
    return fast


def make_clip(
    folder: Path,
    seed: int,
    patch_size: int = PATCH_SIZE,
    dtype: torch.dtype = torch.float32,
    image_size: int = IMAGE_SIZE,
) -> Path:
    """A CLIP vision model of 3 blocks with its image processor."""
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=HIDDEN_SIZE, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        image_size=image_size, patch_size=patch_size, initializer_factor=2.0,
    )  # fmt: skip
    CLIPVisionModel(config).to(dtype).save_pretrained(folder)
    side = {"height": image_size, "width": image_size}
    CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=side).save_pretrained(folder)
    return folder


def make_siglip(folder: Path, seed: int, patch_size: int = PATCH_SIZE, image_size: int = IMAGE_SIZE) -> Path:
    """A SigLIP vision model of 3 blocks, without CLS token, with its image processor."""
    torch.manual_seed(seed)
    config = SiglipVisionConfig(
        hidden_size=HIDDEN_SIZE, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        image_size=image_size, patch_size=patch_size,
    )  # fmt: skip
    SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": image_size, "width": image_size}).save_pretrained(folder)
    return folder


def make_llava_data(
    folder: Path, seed: int, n: int = NUM_RECORDS, pictures: Sequence[tuple[int, int]] = PICTURES
) -> Path:
    """`llava.json` with `n` records and `images/`: by turns one image, text alone, several images, several turns."""
    draw = random.Random(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = [_record(folder / "images", number, draw, pictures) for number in range(n)]
    (folder / "llava.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    return folder / "llava.json"


def _record(images: Path, number: int, draw: random.Random, pictures: Sequence[tuple[int, int]]) -> dict[str, Any]:
    kind = number % 4
    scenes = [(draw.choice(list(COLOURS)), draw.choice(SHAPES)) for _ in range(2 if kind == 2 else 1)]
    names = [f"{number:03d}_{place}.jpg" for place in range(len(scenes))]
    (colour, shape), *others = scenes
    if kind == 1:
        turns = [
            f"Name a shape other than a {shape}.",
            f"A {'square' if shape != 'square' else 'circle'}, for example.",
        ]
        return {"id": number, "conversations": _turns(turns)}
    for name, scene in zip(names, scenes, strict=True):
        _picture(*scene, draw, pictures).save(images / name, quality=90)
    turns = ["<image>\nWhat is in the picture?", f"A {colour} {shape}."]
    if kind == 2:
        turns = ["First <image> and then <image>: what are they?", f"A {colour} {shape} and a {' '.join(others[0])}."]
    if kind == 3:
        turns += ["Which colour is it?", f"It is {colour}.", "Are you sure?", "Yes."]
    image = names if kind == 2 else names[0]
    return {"id": f"r{number}", "image": image, "conversations": _turns(turns)}


def _turns(texts: list[str]) -> list[dict[str, str]]:
    return [{"from": "gpt" if place % 2 else "human", "value": text} for place, text in enumerate(texts)]


def _picture(colour: str, shape: str, draw: random.Random, sizes: Sequence[tuple[int, int]]) -> PILImage.Image:
    """One coloured shape on grey, of one of the sizes (width, height)."""
    width, height = draw.choice(sizes)
    picture = PILImage.new("RGB", (width, height), (200, 200, 200))
    pen, fill = ImageDraw.Draw(picture), COLOURS[colour]
    left, top = draw.randrange(width - 24), draw.randrange(height - 24)
    if shape == "circle":
        pen.ellipse((left, top, left + 20, top + 20), fill=fill)
    else:
        pen.rectangle((left, top, left + 20, top + (20 if shape == "square" else 6)), fill=fill)
    return picture
