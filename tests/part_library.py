"""Stand-ins for the parts that recipes name: of the same classes, in the same layouts, keyed by their hub ids.

Lengths are a seventh: CLIP at 336 px with patches of 14 becomes 48 px with patches of 8, so that a grid of 24 x 24 is
one of 6 x 6. What recipes say about sizes is cut down alike (tests/engine/conftest.py: `on_standins`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    Siglip2ImageProcessorPil,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)

from tests.legacy.checkpoints import ARCHITECTURES, make_legacy_checkpoint
from tests.standins import HIDDEN_SIZE, INTERNLM_SPECIAL, make_clip, make_siglip, make_tokenizer
from vlmtool.utils.hub import SHIPPED

SHRINK = 7  # of lengths in pixels
PATCH_SIZE = 8  # px
SHRINK_PATCHES = 16  # of numbers of patches: a quarter along each side


@dataclass(frozen=True)
class Family:
    """Language models of one class and one tokenizer.

    Args:
        kind: model_type of transformers, or an architecture of tests/legacy.
        special: special tokens beside those that have a role.
        bos, eos, pad: as in the published tokenizer_config.json; None where there is none.
        options: of the class's config.
    """

    kind: str
    special: tuple[str, ...] = ()
    bos: str | None = "<s>"
    eos: str = "</s>"
    pad: str | None = "<unk>"
    options: Mapping[str, Any] = field(default_factory=dict)


CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
GEMMA = {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "special": ("<start_of_turn>", "<end_of_turn>")}
GLM = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "[gMASK]", "<sop>")
LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>")
PHI3 = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
QWEN = {"bos": None, "eos": "<|im_end|>", "pad": "<|endoftext|>", "special": CHATML}
TIED = {"tie_word_embeddings": True}

# Patterns of hub ids; the first that matches counts.
LLMS = {
    "internlm/internlm-chat-*": Family("internlm", tuple(INTERNLM_SPECIAL), pad="</s>"),
    "internlm/internlm2-chat-*": Family("internlm2", CHATML, pad="</s>"),
    "Qwen/Qwen-*": Family("qwen", CHATML, bos=None, eos="<|endoftext|>", pad="<|endoftext|>"),
    "THUDM/chatglm3-*": Family("chatglm", GLM),
    "XiaoduoAILab/Xmodel_LM": Family("xmodel"),
    "lmsys/vicuna-*": Family("llama"),
    "meta-llama/Llama-2-*": Family("llama", pad=None),
    "meta-llama/*Llama-3*": Family("llama", LLAMA3, bos="<|begin_of_text|>", eos="<|eot_id|>", pad=None),
    "HuggingFaceTB/SmolLM2-*": Family("llama", CHATML, "<|im_start|>", "<|im_end|>", "<|im_end|>", options=TIED),
    "microsoft/Phi-3-*": Family("phi3", PHI3, eos="<|endoftext|>", pad="<|endoftext|>"),
    "Qwen/Qwen2.5-7B-*": Family("qwen2", **QWEN),
    "Qwen/Qwen2.5-*": Family("qwen2", **QWEN, options=TIED),
    "Qwen/Qwen3-8B": Family("qwen3", **QWEN, options={"head_dim": 32}),
    "Qwen/Qwen3-*": Family("qwen3", **QWEN, options={"head_dim": 32, **TIED}),
    "mistralai/Mistral-7B-*": Family("mistral", pad=None),
    "google/gemma-*": Family("gemma", **GEMMA, options={"head_dim": 32}),
    "THUDM/glm-4-*": Family("glm", GLM, None, "<|endoftext|>", "<|endoftext|>", options={"head_dim": 16}),
}
# Pattern of hub ids: kind, and side of the pictures in pixels.
ENCODERS = {
    "openai/clip-vit-large-patch14": ("clip", 224),
    "openai/clip-vit-large-patch14-336": ("clip", 336),
    "google/siglip2-so400m-patch16-naflex": ("naflex", 256),
    "google/siglip*-224": ("siglip", 224),
    "google/siglip*-384": ("siglip", 384),
    "facebook/dinov2-large": ("dinov2", 518),
}


class PartLibrary:
    """Makes the folder of a part when it is first asked for; each hub id has weights of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def llm(self, hub_id: str) -> str:
        """Path of the language model; the demo's, which ships with the package, is its own stand-in."""
        if hub_id.startswith(SHIPPED):
            return hub_id
        folder = self.folder / hub_id
        if not folder.exists():
            _make_llm(folder, _find(LLMS, hub_id), crc32(hub_id.encode()))
        return str(folder)

    def vision_encoder(self, hub_id: str) -> str:
        """Path of the image encoder."""
        if hub_id.startswith(SHIPPED):
            return hub_id
        folder = self.folder / hub_id
        if not folder.exists():
            kind, side = _find(ENCODERS, hub_id)
            _make_encoder(folder, kind, side // SHRINK, crc32(hub_id.encode()))
        return str(folder)


def _find(table: Mapping[str, Any], hub_id: str) -> Any:
    found = [value for pattern, value in table.items() if fnmatchcase(hub_id, pattern)]
    assert found, f"There is no stand-in for '{hub_id}': add its family to tests/part_library.py."
    return found[0]


def _make_llm(folder: Path, family: Family, seed: int) -> None:
    roles = [token for token in (family.bos, family.eos, family.pad) if token is not None]
    tokens = list(dict.fromkeys([*roles, *family.special]))
    tokenizer = make_tokenizer(tokens, family.bos, family.eos, family.pad)
    if family.kind in ARCHITECTURES:
        make_legacy_checkpoint(family.kind, folder, seed, tokenizer=tokenizer, **family.options)
        return
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family.kind, vocab_size=len(tokenizer), hidden_size=HIDDEN_SIZE, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        **{"tie_word_embeddings": False, **family.options},
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_encoder(folder: Path, kind: str, side: int, seed: int) -> None:
    sizes = {"hidden_size": HIDDEN_SIZE, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": PATCH_SIZE}
    torch.manual_seed(seed)
    if kind == "clip":
        make_clip(folder, seed, PATCH_SIZE, image_size=side)
    elif kind == "siglip":
        make_siglip(folder, seed, PATCH_SIZE, image_size=side)
    elif kind == "naflex":
        Siglip2VisionModel(Siglip2VisionConfig(**sizes, intermediate_size=128, num_patches=16)).save_pretrained(folder)
        Siglip2ImageProcessorPil(patch_size=PATCH_SIZE, max_num_patches=16).save_pretrained(folder)
    else:
        Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2, image_size=side)).save_pretrained(folder)
        crop = {"height": 32, "width": 32}  # 256 px, then 224
        BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=crop).save_pretrained(folder)
