"""Writing one part as Hugging Face knows it: weights, tokenizer, image processor, adapter."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from vlmtool.convert.target import TOKENIZER_FILES, matches
from vlmtool.data.image_processor import load_image_processor
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.models.legacy.find import find_legacy
from vlmtool.models.legacy.load import GENERATION
from vlmtool.models.lora import name_in_file
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import read_json_object, write_json
from vlmtool.utils.terminal import track

_INDEX = "model.safetensors.index.json"


def stored_dtype(folder: Path) -> torch.dtype:
    """The type in which a part's weights are stored, by its config; float32 where that does not say."""
    config = read_json_object(folder / "config.json")
    sections = [section for section in (config, config.get("vision_config")) if isinstance(section, dict)]
    name = next((s[key] for s in sections for key in ("dtype", "torch_dtype") if s.get(key)), "float32")
    dtype = getattr(torch, str(name).removeprefix("torch."), None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """`float16`, as configs have it."""
    return str(dtype).removeprefix("torch.")


def cast(state: Mapping[str, Tensor], dtype: torch.dtype, where: str) -> dict[str, Tensor]:
    """The weights in `dtype`.

    Raises:
        CheckpointError: a weight is not a finite number, or too large for `dtype`.
    """
    result = {}
    for name, value in state.items():
        result[name] = value.to(dtype).contiguous()
        if not torch.isfinite(result[name]).all():
            if torch.isfinite(value).all():
                raise CheckpointError(f"{where}: '{name}' has values too large for {dtype}.\nConvert with --fp32.")
            raise CheckpointError(
                f"{where}: '{name}' holds NaN or infinite values: the training diverged.\nTake a checkpoint before it."
            )
    return result


def save_adapter(folder: Path, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write a peft adapter.

    Args:
        settings: as `adapter_config.json` has them.
        state: by peft's names inside the model (`base_model.model.….lora_A.default.weight`).
    """
    folder.mkdir()
    write_json(folder / "adapter_config.json", dict(settings))
    tensors = {name_in_file(name): value for name, value in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def save_llm(llm: PreTrainedModel, base: Path, folder: Path, max_shard_size: str) -> None:
    """Write an LLM with the tokenizer and generation settings of its base, untouched.

    Of a base with code of its own it is the tokenizer that transformers reads without that code.
    """
    settings = base / GENERATION
    if settings.is_file():
        # transformers refuses to write settings that it finds odd, and known checkpoints (Vicuna's) have such.
        llm.generation_config = GenerationConfig()
    llm.save_pretrained(folder, max_shard_size=max_shard_size)
    if settings.is_file():
        shutil.copyfile(settings, folder / GENERATION)
    if find_legacy(base) is not None:
        load_tokenizer(base).save_pretrained(folder)
    else:
        copy_files(base, folder, TOKENIZER_FILES)


def save_encoder(
    encoder: PreTrainedModel, base: Path, folder: Path, max_shard_size: str, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write an image encoder with the image processor of its base.

    Args:
        state: its weights, where they are to have other names than its own.
    """
    encoder.save_pretrained(folder, state_dict=state, max_shard_size=max_shard_size)
    load_image_processor(base).save_pretrained(folder)


def save_shards(state: Mapping[str, Tensor], target: Path, max_shard_size: str) -> None:
    """Write safetensors, shard by shard, with transformers' names of files; one shard is copied at a time."""
    shapes = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    plan = split_torch_state_dict_into_shards(shapes, max_shard_size=max_shard_size)
    shards = plan.filename_to_tensors
    for file, names in track(shards.items(), len(shards), "Writing"):
        # Copies: parts of one fused tensor share its memory, which safetensors refuses.
        tensors = {name: state[name].clone(memory_format=torch.contiguous_format) for name in names}
        save_file(tensors, target / file, metadata={"format": "pt"})
    if plan.is_sharded:
        write_json(target / _INDEX, {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename})


def copy_files(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Copy the files of `source` whose names match."""
    for file in sorted(source.iterdir()):
        if file.is_file() and matches(file.name, patterns):
            shutil.copyfile(file, target / file.name)
