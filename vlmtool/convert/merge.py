"""Adapters into their bases: one part, or every part of a model folder that has one.

An adapter trained on an NF4 base is merged into the original 16 or 32-bit weights, whose type stays as it is.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from vlmtool.chat.load import pick_device
from vlmtool.convert.card import write_card
from vlmtool.convert.merge_check import adapters_inside, check_origin
from vlmtool.convert.merge_weights import merged_model
from vlmtool.convert.parts import copy_files, save_encoder, save_llm
from vlmtool.convert.target import PROCESSOR_FILES, TOKENIZER_FILES, check_target, new_folder
from vlmtool.models.build import load_encoder_weights
from vlmtool.models.encoders.checkpoint import VISION_CLASSES
from vlmtool.models.fingerprint import identity_of, part_hash
from vlmtool.models.lineage import Guard
from vlmtool.models.llm import load_llm
from vlmtool.models.manifest import (
    FILE_NAME,
    EncoderPart,
    MergedAdapter,
    Part,
    PartManifest,
    read_manifest,
    remember_folder,
    write_manifest,
)
from vlmtool.models.parts import PREFIX_TUNING
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import read_json_object
from vlmtool.utils.hub import local_folder, recorded_folder
from vlmtool.utils.remote_code import check_trusted

# Part → its sub-folder in a model folder.
_FOLDERS = {"llm": "llm", "vision_encoder": "visual_encoder"}


def merge_part(
    base: str,
    adapter: str,
    save_path: Path,
    is_clip: bool = False,
    device: str = "auto",
    max_shard_size: str = "5GB",
    force: bool = False,
    trust_remote_code: bool = False,
) -> Path:
    """Write a part with an adapter inside: plain Hugging Face weights, and a manifest that names the adapter.

    Args:
        base, adapter: local folders or hub ids.
        is_clip: the base is an image encoder; found out from the base too.
        device: where the arithmetic is done: cpu, cuda or auto.
        force: warn where the adapter was trained on another base; the manifest records it.
        trust_remote_code: run code that the base brings along.

    Returns:
        `save_path`.

    Raises:
        UsageError: a path or an option that is wrong.
        CheckpointError: the adapter was trained on another base, or is inside the base already.
    """
    place = pick_device(None if device == "auto" else device)
    base_folder, adapter_folder = local_folder(base, "BASE"), local_folder(adapter, "ADAPTER")
    settings = _adapter_settings(adapter, adapter_folder)
    check_target(save_path, [base_folder, adapter_folder])
    part = "vision_encoder" if is_clip or _is_encoder(base_folder) else "llm"
    if part == "vision_encoder" and settings.get("task_type") == "CAUSAL_LM":
        raise UsageError(f"ADAPTER: '{adapter}' is of a language model, '{base}' is an image encoder.\nGive its base.")
    guard = Guard(force)
    before = check_origin(base, base_folder, adapter_folder, part, guard)
    forced = _once([*before, *guard.overridden])
    with new_folder(save_path) as folder:
        model = _base_model(part, base_folder, None, place, trust_remote_code)
        _write_merged(part, base, base_folder, model, adapter_folder, folder, max_shard_size, forced)
    remember_folder(save_path)
    return save_path


def merge_folder(
    folder: Path,
    save_path: Path,
    device: str = "auto",
    max_shard_size: str = "5GB",
    force: bool = False,
    trust_remote_code: bool = False,
) -> Path:
    """Write a model folder again with every adapter inside its part; a part without one is as it was.

    Args:
        device, max_shard_size, force: as above.
        trust_remote_code: run code that a base brings along, or that the folder names.

    Returns:
        `save_path`.

    Raises:
        UsageError: `folder` is no model folder, or holds no adapter.
        CheckpointError: a base has other weights than in training.
    """
    place = pick_device(None if device == "auto" else device)
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None:
        raise UsageError(
            f"FOLDER: '{folder}' is not a model folder: it has no vlmtool.json of a whole model.\n"
            "`vlmtool convert pth_to_hf` writes one; for a single part give BASE ADAPTER SAVE_PATH."
        )
    parts: dict[str, Part] = {"llm": manifest.llm, "vision_encoder": manifest.vision_encoder}
    if not any(part.adapter for part in parts.values()):
        raise UsageError(f"FOLDER: '{folder}' holds no adapter: there is nothing to merge.\nUse it as it is.")
    bases = {
        name: recorded_folder(part.base, folder, f"the base of {folder / part.adapter}")
        for name, part in parts.items()
        if part.adapter
    }
    for name in bases:
        _adapter_settings(str(folder / str(parts[name].adapter)), folder / str(parts[name].adapter))
    check_target(save_path, [folder, *bases.values()])
    guard = Guard(force)
    for name, base in bases.items():
        check_origin(parts[name].base, base, folder / str(parts[name].adapter), name, guard)
    forced = _once([*manifest.forced, *guard.overridden])
    with new_folder(save_path) as target:
        target.mkdir()
        copy_files(folder, target, (*TOKENIZER_FILES, *PROCESSOR_FILES))
        shutil.copytree(folder / manifest.projector, target / manifest.projector)
        if (beside := manifest.vision_encoder.beside) is not None:
            shutil.copytree(folder / beside.image_processor, target / beside.image_processor)
        written = {
            name: _merge_entry(
                name, part, folder, target, bases.get(name), place, max_shard_size, forced, trust_remote_code
            )
            for name, part in parts.items()
        }
        merged = manifest.model_copy(update={**written, "forced": forced})
        write_card(target, merged, save_path)
        write_manifest(target, merged)
    remember_folder(save_path)
    return save_path


def _once(texts: list[str]) -> tuple[str, ...]:
    """Each text once, in order."""
    return tuple(dict.fromkeys(texts))


def _merge_entry(
    name: str,
    part: Part,
    folder: Path,
    target: Path,
    base: Path | None,
    device: torch.device,
    max_shard_size: str,
    forced: tuple[str, ...],
    trust_remote_code: bool,
) -> Part:
    """Write one part of a model folder into `target`; its entry for the manifest."""
    if part.adapter is not None and base is not None:
        sub_folder, adapter = _FOLDERS[name], folder / part.adapter
        reader = part.type if isinstance(part, EncoderPart) else None
        if reader is not None:
            check_trusted(reader, f"{folder / FILE_NAME}: {name}.type", trust_remote_code)
        model = _base_model(name, base, reader, device, trust_remote_code)
        written = _write_merged(name, part.base, base, model, adapter, target / sub_folder, max_shard_size, forced)
        kept = {"sha256": written.sha256, "config_sha256": written.config_sha256, "merged": written.merged}
        return part.model_copy(update={"adapter": None, "weights": sub_folder, **kept})
    if part.weights is not None:
        shutil.copytree(folder / part.weights, target / part.weights)
    return part


def _base_model(
    part: str, folder: Path, reader: str | None, device: torch.device, trust_remote_code: bool
) -> PreTrainedModel:
    """The part without its adapter.

    Args:
        reader: of an image encoder, `Reading.type`.
    """
    if part == "vision_encoder":
        return load_encoder_weights(folder, "auto", reader).to(device)
    return load_llm(folder, "auto", device=device, trust_remote_code=trust_remote_code)


def _write_merged(
    part: str,
    base: str,
    base_folder: Path,
    model: PreTrainedModel,
    adapter: Path,
    target: Path,
    max_shard_size: str,
    forced: tuple[str, ...],
) -> PartManifest:
    """Merge and write one part with its manifest."""
    save = save_encoder if part == "vision_encoder" else save_llm
    save(merged_model(model, adapter), base_folder, target, max_shard_size)
    inside = (*adapters_inside(base_folder), MergedAdapter(sha256=part_hash(adapter), source=str(adapter)))
    origin = identity_of(base_folder)
    manifest = PartManifest(
        part=part, base=base, sha256=origin.weights, config_sha256=origin.config, merged=inside, forced=forced
    )
    write_manifest(target, manifest)
    return manifest


def _adapter_settings(adapter: str, folder: Path) -> dict[str, Any]:
    """`adapter_config.json` of what was named as the adapter.

    Raises:
        UsageError: there is none, or the adapter cannot be merged.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise UsageError(f"ADAPTER: '{adapter}' holds no adapter_config.json.\nGive the folder of a peft adapter.")
    settings = read_json_object(file)
    if settings.get("peft_type") == PREFIX_TUNING:
        raise UsageError(
            f"ADAPTER: '{adapter}' is a prefix, keys and values before every prompt: no weight can hold it.\n"
            "It is used beside its base: give chat and mmbench the model folder that pth_to_hf wrote."
        )
    return settings


def _is_encoder(base: Path) -> bool:
    return read_json_object(base / "config.json").get("model_type") in VISION_CLASSES
