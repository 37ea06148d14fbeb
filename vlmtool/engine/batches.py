"""Batches from a loader and its worker processes, which may be killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vlmtool.data.collate import Batch
from vlmtool.utils.errors import VlmtoolError


@contextmanager
def workers_of(loader: Any) -> Iterator[Iterator[Batch]]:
    """The loader's batches; its workers end with the block, whatever ends it.

    Raises:
        VlmtoolError: a worker was killed.
    """
    batches = iter(loader)
    try:
        yield batches
    except RuntimeError as error:
        if not _is_of_worker(error):
            raise
        raise _ended(error) from error
    finally:
        # An error's traceback may keep the iterator alive to the end of the process, which then waits for workers that
        # leave SIGTERM to the run. torch has no public name for this.
        if (shut_down := getattr(batches, "_shutdown_workers", None)) is not None:
            try:
                shut_down()
            except RuntimeError as error:  # torch tells of a killed worker again as each of the others ends
                if not _is_of_worker(error):
                    raise


def draw(batches: Iterator[Batch]) -> Batch:
    """The next batch; an error of a loader's worker as it was raised there, without the traceback torch puts around.

    Raises:
        VlmtoolError: likewise, or a worker was killed while it handed over a batch.
    """
    try:
        return next(batches)
    except (ConnectionError, EOFError) as error:
        if str(error).startswith("Caught "):  # raised by what a worker read, and passed on by torch
            raise
        raise _ended(error) from error
    except VlmtoolError as error:
        kind = type(error)
        raise kind(str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2]) from error


def _ended(error: Exception) -> VlmtoolError:
    said = str(error).partition(". ")[0] or type(error).__name__
    return VlmtoolError(
        f"A process that reads the data ended: {said}.\n"
        "Was the memory full (`dmesg`)? Lower data.num_workers, then go on with the same command and --resume."
    )


def _is_of_worker(error: RuntimeError) -> bool:
    """torch's word on a loader's worker that was killed."""
    return str(error).startswith("DataLoader worker")
