"""Start from the stage before: a run folder, a checkpoint or a model folder."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from vlmtool.models.checkpoint import last_checkpoint, read_checkpoint
from vlmtool.models.manifest import Manifest, read_manifest
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.models.weights import LoadReport, load_weights, saved_names
from vlmtool.utils.errors import CheckpointError, UsageError
from vlmtool.utils.files import sha256


def find_source(init_from: str) -> Path:
    """The checkpoint or model folder that `init_from` means.

    Raises:
        UsageError: there is none.
    """
    path = Path(init_from).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "vlmtool.json").is_file():
            return path
        newest = last_checkpoint(path)
        if newest is not None:
            return newest
        raise UsageError(f"init_from: '{init_from}' holds no checkpoint yet.\nRun the stage before to its end first.")
    raise UsageError(
        f"init_from: there is no '{init_from}'.\nRun the stage before, or start without it: --set init_from=None."
    )


def load_stage(
    model: VisionLanguageModel, source: Path, origins: dict[str, dict[str, str]]
) -> tuple[LoadReport, list[dict[str, Any]]]:
    """Put the weights of the stage before into the model.

    Args:
        origins: this run's parts with their hashes, which must be those of the stage before.

    Returns:
        What was loaded, and the chain of parents for the checkpoints of this run.
    """
    manifest = read_manifest(source) if source.is_dir() else None
    if manifest is not None:
        return _load_folder(model, source, manifest, origins)
    checkpoint = read_checkpoint(source, "init_from")
    for part, origin in origins.items():
        _same_base(source, part, checkpoint.meta["parts"][part]["sha256"], origin)
    report = load_weights(model, checkpoint.state_dict, str(source), saved_names(model))
    parent = {
        "checkpoint": str(source),
        "sha256": sha256(source),
        "name": checkpoint.meta["name"],
        "step": checkpoint.meta["step"],
    }
    return report, [parent, *checkpoint.meta["parents"]]


def _load_folder(
    model: VisionLanguageModel, folder: Path, manifest: Manifest, origins: dict[str, dict[str, str]]
) -> tuple[LoadReport, list[dict[str, Any]]]:
    """Projector and adapters of a model folder."""
    state: dict[str, Tensor] = {}
    for part, prefix in (("llm", "llm."), ("vision_encoder", "vision_encoder.model.")):
        entry = getattr(manifest, part)
        if entry.weights is not None:
            raise CheckpointError(
                f"init_from: '{folder}' holds a {part} of its own.\n"
                f"Name it as the part: --set {part}.path={folder / entry.weights}, and start from the run's checkpoint."
            )
        _same_base(folder, part, entry.sha256, origins[part])
        if entry.adapter is not None:
            adapter = load_file(folder / entry.adapter / "adapter_model.safetensors")
            state |= {prefix + _with_adapter_name(name): value for name, value in adapter.items()}
    projector = load_file(folder / manifest.projector / "model.safetensors")
    state |= {f"projector.{name}": value for name, value in projector.items()}
    report = load_weights(model, state, str(folder), saved_names(model))
    return report, [{"checkpoint": str(folder), "name": folder.name}, *manifest.parents]


def _with_adapter_name(name: str) -> str:
    """peft leaves its adapter's name out of files: `lora_A.weight` → `lora_A.default.weight`."""
    stem, _, leaf = name.rpartition(".")
    return f"{stem}.default.{leaf}"


def _same_base(source: Path, part: str, sha: str, origin: dict[str, str]) -> None:
    if sha != origin["sha256"]:
        raise CheckpointError(
            f"{source}: was trained on another {part} (weights {sha[:12]}) than "
            f"'{origin['path']}' ({origin['sha256'][:12]}).\n"
            f"Use the same {part}, or train the stage before again."
        )
