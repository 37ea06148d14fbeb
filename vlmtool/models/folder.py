"""The projector's sub-folder of a model folder: `config.json` and `model.safetensors`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlmtool.models.build import build_projector
from vlmtool.models.checkpoint import safe_load
from vlmtool.models.imports.projector import import_projector
from vlmtool.models.lineage import read_projector_config
from vlmtool.models.projectors.base import Projector
from vlmtool.models.weights import load_weights
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import CheckpointError, RecipeError
from vlmtool.utils.files import atomic_path, write_json
from vlmtool.utils.imports import import_class
from vlmtool.utils.remote_code import check_trusted

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save_projector(folder: Path, projector_config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write a projector's folder whole or not at all.

    Args:
        projector_config: {type, vision_hidden_size, llm_hidden_size, options}.
        state: weights by the module's own names (`model.0.weight`).
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / CONFIG, dict(projector_config))
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})


def load_projector(folder: Path, device: torch.device | str = "cpu", trust_remote_code: bool = False) -> Projector:
    """The projector of a folder, vlmtool's or XTuner's, or of a LLaVA model, in float32 and eval mode.

    Args:
        trust_remote_code: the class that the folder names may be one of somebody else's.

    Raises:
        CheckpointError: a damaged folder, or weights that are not exactly those of its config.
    """
    imported = import_projector(folder)
    config = _read_config(folder, trust_remote_code) if imported is None else imported.arguments
    try:
        projector = build_projector(freeze=True, device=device, **config)
    except RecipeError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    state = _read_state(folder) if imported is None else imported.state
    report = load_weights(projector, state, str(folder), expected=projector.state_dict())
    if report.fresh:
        raise CheckpointError(
            f"{folder}: {counted(len(report.fresh), 'weight')} of the projector missing, first '{report.fresh[0]}'.\n"
            "The folder is incomplete: copy or convert it again."
        )
    return projector.eval()


def _read_config(folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """Arguments of `build_projector`."""
    file, config = folder / CONFIG, read_projector_config(folder)
    widths = (config["vision_hidden_size"], config["llm_hidden_size"])
    if not (all(isinstance(width, int) for width in widths) and isinstance(config["options"], dict)):
        raise CheckpointError(
            f"{file}: it needs type, vision_hidden_size, llm_hidden_size and options.\nWrite the folder again."
        )
    config["type_name"] = _checked_type(file, config.pop("type"), trust_remote_code)
    return config


def _checked_type(file: Path, type_name: Any, trust_remote_code: bool) -> str:
    """A folder may come from anywhere: only a projector class is called with what its config says."""
    check_trusted(str(type_name), f"{file}: type", trust_remote_code)
    try:
        cls = import_class(str(type_name), f"{file}: type")
    except RecipeError as error:
        raise CheckpointError(str(error)) from error
    if not (isinstance(cls, type) and issubclass(cls, Projector)):
        raise CheckpointError(
            f"{file}: type = '{type_name}' is not a projector.\nIts class must derive from vlmtool's Projector."
        )
    return str(type_name)


def _read_state(folder: Path) -> dict[str, Tensor]:
    """The weights, from safetensors or XTuner's pytorch_model.bin."""
    file, legacy = folder / WEIGHTS, folder / "pytorch_model.bin"
    return safe_load(legacy) if not file.is_file() and legacy.is_file() else load_tensors(file)


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: the weights cannot be read: {error}\nIs the folder whole?") from error
