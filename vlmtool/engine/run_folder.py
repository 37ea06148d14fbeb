"""A run folder belongs to one run at a time; what earlier ones left is swept away or set aside, never mixed in."""

import fcntl
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from vlmtool.engine.hooks import benchmark, board, progress, samples, trouble, validation
from vlmtool.engine.loop import SKIPPED_FILE
from vlmtool.models.checkpoint import mark_last
from vlmtool.utils.distributed import is_main
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import remove
from vlmtool.utils.terminal import clean, err

LOCK_FILE = ".lock"
RECIPE_FILE = "recipe.py"  # the recipe as run
IMPORT_FILE = "init_from.json"  # what became of every weight of another tool that the run starts from
LOGS = (
    progress.LOG_FILE, validation.LOG_FILE, samples.LOG_FILE, benchmark.LOG_FILE, benchmark.FOLDER, benchmark.BEST,
    SKIPPED_FILE, trouble.BAD_SAMPLES_FILE, board.FOLDER,
)  # fmt: skip
# What `saving`, `mark_last` and `write_text` write before it gets its name. A conversion into the run folder has
# temporary names too, which are its own.
HALF_WRITTEN = re.compile(
    r"\.(iter|epoch)_\d+\.(pth|state)\.tmp|\.(last_checkpoint|recipe\.py|init_from\.json)\.tmp\d+"
)
CHECKPOINT = re.compile(r"(iter|epoch)_(\d+)\.(?:pth|state)")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of `folder` until the block ends or the process dies; the main rank does it for all.

    A record lock: the workers of a data loader do not inherit it and cannot hold it longer than the run lives.

    Raises:
        UsageError: another run is in there; it is named.
    """
    if not is_main():
        yield
        return
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        if is_new and [file.name for file in folder.iterdir()] == [LOCK_FILE]:  # the run never began
            remove(folder)
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        raise UsageError(
            f"--work-dir {folder}: another run is writing there ({holder or 'which one is not known'}).\n"
            "Wait for its end, stop it, or give another --work-dir."
        ) from error
    except OSError as error:  # some network file systems have no locks
        _tell(f"{folder} cannot be locked ({error.strerror}): see to it that no other run writes there.")
    holder = f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}"
    with suppress(OSError):  # the lock holds on a full disk too
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)


def lies_in(folder: Path, start: Path | None) -> bool:
    """A run that goes on from `start` is the one in `folder`; any other would mix its files with that one's."""
    return start is not None and start.resolve().parent == folder.resolve()


def sweep(folder: Path) -> None:
    """Delete what a killed run left half-written."""
    for file in folder.iterdir():
        if HALF_WRITTEN.fullmatch(file.name):
            remove(file)


def set_logs_aside(folder: Path) -> None:
    """Before a run starts anew: logs of an earlier one, which saved nothing, go into a folder of their own."""
    found = [folder / name for name in LOGS if (folder / name).exists()]
    if found:
        _tell(f"The logs of an earlier run that saved nothing are kept in {_move_aside(folder, found)}.")


def set_later_checkpoints_aside(folder: Path, start: Path | None, step: int, epoch: int) -> None:
    """Before the first step: checkpoints from later steps are of a future that this run leaves.

    Left where they are, `schedule.keep` would count them as the newest.

    Args:
        start: checkpoint that the run goes on from; `last_checkpoint` names it before a later one goes.
        step, epoch: that are done.
    """
    done = {"iter": step, "epoch": epoch}
    later = [
        file for file in sorted(folder.iterdir())
        if (match := CHECKPOINT.fullmatch(file.name)) and int(match[2]) > done[match[1]]
    ]  # fmt: skip
    if not later:
        return
    if start is not None and lies_in(folder, start):
        mark_last(start)
    place = _move_aside(folder, later)
    names = ", ".join(file.name for file in later if file.suffix == ".pth") or "state without checkpoint"
    _tell(f"{names}: from after step {step}, where this run goes on; kept in {place}.")


def _move_aside(folder: Path, files: Iterable[Path]) -> Path:
    number = 1
    while (place := folder / f"earlier_{number}").exists():
        number += 1
    place.mkdir()
    for file in files:
        file.rename(place / file.name)
    return place


def _tell(line: str) -> None:
    err().print(clean(line))
