"""A training checkpoint: `iter_N.pth` = {meta: plain values, state_dict: what was trained}. Never unpickles code."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.serialization import safe_globals

from vlmtool.models.pickled import asks_for, check_tensors, refused_name
from vlmtool.utils.errors import CheckpointError, UsageError
from vlmtool.utils.files import no_file, write_text

FORMAT = 1
LAST_CHECKPOINT = "last_checkpoint"  # text file in the run folder: the name of the newest checkpoint
_NOTHING: Mapping[str, Any] = MappingProxyType({})
# What torch's reader raises on a file that somebody made by hand.
_BROKEN = (
    RuntimeError, EOFError, ValueError, OSError, LookupError, TypeError, AttributeError, AssertionError, MemoryError,
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """What a `.pth` holds.

    `meta` keys: format, step, epoch, recipe (as expanded), parts ({llm, vision_encoder}: {path, sha256}), adapters
    ({llm, vision_encoder}: peft settings or None), projector ({type, vision_hidden_size, llm_hidden_size, options}),
    template ({name, jinja, stop_words}), data ({path, num_samples, …}), parents (list), versions.
    """

    path: Path
    meta: dict[str, Any]
    state_dict: dict[str, Tensor]


def encode_checkpoint(path: Path, meta: dict[str, Any], state_dict: dict[str, Tensor]) -> None:
    """Write a checkpoint's content to `path`; the caller sees to it that it appears whole."""
    write_tensors(path, {"meta": {"format": FORMAT, **meta}, "state_dict": state_dict})


def write_tensors(path: Path, value: Any) -> None:
    """`torch.save`, flushed to disk.

    Raises:
        OSError: with the disk's own words; torch hides them behind a complaint about its place in the file.
    """
    try:
        with open(path, "wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, OSError):
            reason = reason.__cause__ or reason.__context__
        raise (reason or error) from error


def read_checkpoint(path: str | Path, what: str = "checkpoint") -> Checkpoint:
    """Read a checkpoint onto the CPU, memory-mapped.

    Raises:
        UsageError: there is no such file.
        CheckpointError: it is damaged, holds more than tensors and plain values, or is not vlmtool's.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{what}: {no_file(path)}.\nRun folders hold iter_N.pth, named in {LAST_CHECKPOINT}.")
    content = safe_load(path)
    meta, state = (content.get(key) if isinstance(content, dict) else None for key in ("meta", "state_dict"))
    if not (isinstance(meta, dict) and isinstance(state, dict) and _is_state(state)):
        raise CheckpointError(
            f"{path}: not a checkpoint of vlmtool: it has no 'meta' and 'state_dict'.\n"
            "Give the iter_N.pth of a run of vlmtool, to resume it or to start from its weights (init_from)."
        )
    version = meta.get("format")
    if version != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {version}, this vlmtool reads {FORMAT}.\nUse the vlmtool version that wrote it."
        )
    return Checkpoint(path, meta, state)


def _is_state(content: dict[Any, Any]) -> bool:
    """Tensors by name, and nothing else."""
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def safe_load(path: Path, allowed: Mapping[str, Any] = _NOTHING, map_location: Any = "cpu") -> Any:
    """`torch.load` of tensors and plain values only, memory-mapped.

    Args:
        allowed: dotted names of further globals that the file may ask for, and what it gets for each.

    Raises:
        CheckpointError: the file is damaged, asks to run code, or would take more memory than its size.
    """
    try:
        if (refused := refused_name(path, allowed)) is not None:
            raise CheckpointError(f"{path}: {asks_for(refused)}")
        with safe_globals([(value, name) for name, value in allowed.items()]):
            content = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
        check_tensors(content)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused: {_first_line(error)}\nIt is damaged or unsafe; only load files whose origin you know."
        ) from error
    except _BROKEN as error:
        raise CheckpointError(
            f"{path}: the file is damaged: {_first_line(error).partition('. ')[0]}.\nTake the checkpoint before it."
        ) from error
    return content


def _first_line(error: BaseException) -> str:
    text = str(error).rpartition("WeightsUnpickler error: ")[2]  # torch puts advice to trust the file before it
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


def last_checkpoint(run_folder: Path) -> Path | None:
    """The newest checkpoint of a run folder, None if nothing was saved yet.

    Raises:
        CheckpointError: the folder names a file outside it.
    """
    pointer = run_folder / LAST_CHECKPOINT
    if not pointer.is_file():
        return None
    name = pointer.read_text(encoding="utf-8", errors="replace").strip()
    if Path(name).name != name or name in ("", ".."):
        raise CheckpointError(
            f"{pointer}: '{name}' is not the name of a file beside it.\nWrite the name there, such as iter_100.pth."
        )
    return run_folder / name


def mark_last(checkpoint: Path) -> None:
    """Make `checkpoint` its run folder's newest; to be called when all its files are on disk."""
    write_text(checkpoint.parent / LAST_CHECKPOINT, checkpoint.name + "\n")
