"""Tiny seeded checkpoints in the form their authors published, each with the reference model that reads it."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tests.legacy import chatglm, internlm, internlm2, qwen, xmodel
from tests.legacy.llama_like import LlamaLike

REFERENCES: dict[str, Any] = {
    "internlm": (internlm.make_config, internlm.InternLM),
    "internlm2": (internlm2.make_config, internlm2.InternLM2),
    "qwen": (qwen.make_config, qwen.Qwen),
    "chatglm": (chatglm.make_config, chatglm.ChatGLM),
    "xmodel": (xmodel.make_config, xmodel.Xmodel),
}
ARCHITECTURES: tuple[str, ...] = tuple(REFERENCES)
NUM_SHARDS = 2


def make_legacy_checkpoint(
    architecture: str,
    folder: Path,
    seed: int = 0,
    weights: Literal["safetensors", "bin"] = "safetensors",
    dtype: torch.dtype = torch.float32,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **options: Any,
) -> nn.Module:
    """Write config.json, two shards of weights and their index to `folder`; return the reference in eval mode.

    Args:
        weights: the format of the shards.
        dtype: what the shards hold; the reference has the same values, in float32.
        tokenizer: saved too, and then config.json has its special ids.
        options: arguments of the architecture's `make_config`, for example num_layers.

    Returns:
        input_ids (B, T) -> logits (B, T, V) in float32, without gradients.
    """
    make_config, reference_class = REFERENCES[architecture]
    config = make_config(**options) | {"torch_dtype": str(dtype).removeprefix("torch.")}
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        config |= {name: getattr(tokenizer, name) for name in names if name in config}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    reference = reference_class(config)
    _randomize(reference, torch.Generator().manual_seed(seed), dtype)
    _save_shards(folder, _published_state(reference, config, weights, dtype), weights)
    return reference.eval().requires_grad_(False)


def _randomize(reference: nn.Module, generator: torch.Generator, dtype: torch.dtype) -> None:
    """Every weight counts: no bias is 0, no norm is 1, and attention is far from uniform."""
    for name, weight in reference.named_parameters():
        if weight.dim() == 2:
            values = torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5
        elif name.endswith("bias"):
            values = torch.randn(weight.shape, generator=generator) / 2
        else:  # a norm's
            values = torch.rand(weight.shape, generator=generator) + 0.5
        weight.data = values.to(dtype).float()


def _published_state(
    reference: nn.Module, config: dict[str, Any], weights: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    state = dict(reference.state_dict())
    if config["tie_word_embeddings"] and weights == "safetensors":
        del state[reference.output_key]  # save_pretrained writes a shared tensor twice to .bin, once to safetensors
    if isinstance(reference, LlamaLike) and weights == "bin":
        state |= reference.bin_buffers()
    return {name: tensor.to(dtype).clone() for name, tensor in state.items()}


def _save_shards(folder: Path, state: dict[str, Tensor], weights: str) -> None:
    stem, suffix = ("model", "safetensors") if weights == "safetensors" else ("pytorch_model", "bin")
    names, shard_of = list(state), {}
    per_shard = -(-len(names) // NUM_SHARDS)
    for number in range(NUM_SHARDS):
        shard = {name: state[name] for name in names[number * per_shard : (number + 1) * per_shard]}
        file = f"{stem}-{number + 1:05d}-of-{NUM_SHARDS:05d}.{suffix}"
        if weights == "safetensors":
            save_file(shard, folder / file, metadata={"format": "pt"})
        else:
            torch.save(shard, folder / file)
        shard_of |= dict.fromkeys(shard, file)
    total_size = sum(tensor.nbytes for tensor in state.values())  # bytes
    index = {"metadata": {"total_size": total_size}, "weight_map": shard_of}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
