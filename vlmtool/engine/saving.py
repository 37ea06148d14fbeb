"""A training checkpoint on disk, whole or not at all: `iter_N.state/`, then `iter_N.pth`, then `last_checkpoint`.

All is first written and flushed under temporary names. A kill between two renames leaves either the checkpoint before
or a new one without its mark; both halves of a checkpoint carry the same save id, so that no two saves are mixed.
"""

import os
from collections.abc import Callable
from pathlib import Path
from shutil import disk_usage
from typing import Any
from uuid import uuid4

from vlmtool.engine.state import SAVE_ID, state_folder, superseded, write_common_state, write_rank_state
from vlmtool.models.checkpoint import encode_checkpoint, mark_last
from vlmtool.utils.distributed import barrier, gather_lists, is_main, sum_over_ranks
from vlmtool.utils.errors import VlmtoolError
from vlmtool.utils.files import remove, sync_folder

TEMPORARY = ".tmp"  # `run_folder.sweep` knows it


class SaveError(VlmtoolError):
    """A checkpoint could not be written; the ones before it are untouched."""


def save_checkpoint(path: Path, runner: Any, meta: dict[str, Any], weights: dict[str, Any]) -> None:
    """Write the checkpoint; called by every rank.

    Args:
        path: `iter_N.pth` or `epoch_N.pth` in the run folder.
        weights: what was trained; read on the main rank only.

    Raises:
        SaveError: on every rank, where one of them could not write.
    """
    optimizer = runner.strategy.optimizer_state()
    folder, new_folder, new_file = state_folder(path), _temporary(state_folder(path)), _temporary(path)
    save_id = uuid4().hex

    def prepare() -> None:
        if is_main():
            remove(new_folder)
            new_folder.mkdir(parents=True)

    def write() -> None:
        write_rank_state(new_folder, runner)
        if is_main():
            write_common_state(new_folder, runner, optimizer, save_id)
            encode_checkpoint(new_file, {**meta, SAVE_ID: save_id}, weights)

    def write_pieces() -> None:
        runner.strategy.write_pieces(new_folder)

    def put_in_place() -> None:
        if is_main():
            sync_folder(new_folder)
            old_folder = superseded(folder)
            remove(old_folder)
            if folder.is_dir():  # saved under this name before: kept until its other half is replaced as well
                os.replace(folder, old_folder)
            os.replace(new_folder, folder)
            os.replace(new_file, path)
            sync_folder(path.parent)
            mark_last(path)
            remove(old_folder)

    try:
        for work in (prepare, write, write_pieces, put_in_place):
            _together(work, path, runner)
    except SaveError:
        barrier()  # nobody writes any more
        if is_main():
            remove(new_folder)
            remove(new_file)
        raise


def _together(work: Callable[[], None], path: Path, runner: Any) -> None:
    """Do `work` on every rank, and fail on every rank where one failed."""
    problem: OSError | RuntimeError | None = None
    runner.watch.enter(runner.iter - 1, "writing a checkpoint")
    try:
        work()
    except (OSError, RuntimeError) as error:  # torch.save hides what the disk said in a RuntimeError
        problem = error
    runner.watch.enter(runner.iter - 1, "waiting for the checkpoint")
    if sum_over_ranks([float(problem is not None)], runner.device)[0]:
        # Every rank gives the reason: which of them is heard first, nobody knows.
        raise SaveError(gather_lists([_explain(path, problem)] if problem is not None else [])[0]) from problem


def _explain(path: Path, problem: Exception) -> str:
    reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem).partition("\n")[0]
    free = disk_usage(path.parent).free if path.parent.is_dir() else 0
    return (
        f"{path} could not be written: {reason}; {free / 2**20:,.0f} MiB are free there.\n"
        "The checkpoints before it are untouched. Make room, or set schedule.keep lower."
    )


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}{TEMPORARY}")
