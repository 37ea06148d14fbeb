"""A training checkpoint: `iter_N.pth` = {meta: plain values, state_dict: what was trained}. Never unpickles code."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from vlmtool.utils.errors import CheckpointError, UsageError
from vlmtool.utils.files import atomic_path, write_text

FORMAT = 1
LAST_CHECKPOINT = "last_checkpoint"  # text file in the run folder: the name of the newest checkpoint


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


def write_checkpoint(path: Path, meta: dict[str, Any], state_dict: dict[str, Tensor]) -> None:
    """Write a checkpoint whole or not at all."""
    with atomic_path(path) as temporary:
        torch.save({"meta": {"format": FORMAT, **meta}, "state_dict": state_dict}, temporary)


def read_checkpoint(path: str | Path, what: str = "checkpoint") -> Checkpoint:
    """Read a checkpoint onto the CPU, memory-mapped.

    Raises:
        UsageError: there is no such file.
        CheckpointError: it is damaged, holds more than tensors and plain values, or is not vlmtool's.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(
            f"{what}: there is no file '{path}'.\nRun folders hold iter_N.pth, named in {LAST_CHECKPOINT}."
        )
    content = safe_load(path)
    if not isinstance(content, dict) or not {"meta", "state_dict"} <= content.keys():
        raise CheckpointError(f"{path}: not a checkpoint of vlmtool: it has no 'meta' and 'state_dict'.")
    version = content["meta"].get("format")
    if version != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {version}, this vlmtool reads {FORMAT}.\nUse the vlmtool version that wrote it."
        )
    return Checkpoint(path, content["meta"], content["state_dict"])


def safe_load(path: Path) -> Any:
    """`torch.load` of tensors and plain values only.

    Raises:
        CheckpointError: the file is damaged or asks to run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        refused = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "")
        raise CheckpointError(
            f"{path}: refused, it holds pickled objects beside tensors. {refused}".rstrip()
            + "\nIt is damaged or unsafe; only load files whose origin you know."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: the file is damaged: {str(error).partition('. ')[0]}.\nTake the checkpoint before it."
        ) from error


def last_checkpoint(run_folder: Path) -> Path | None:
    """The newest checkpoint of a run folder, None if nothing was saved yet."""
    pointer = run_folder / LAST_CHECKPOINT
    return run_folder / pointer.read_text().strip() if pointer.is_file() else None


def mark_last(checkpoint: Path) -> None:
    """Make `checkpoint` its run folder's newest; to be called when all its files are on disk."""
    write_text(checkpoint.parent / LAST_CHECKPOINT, checkpoint.name + "\n")
