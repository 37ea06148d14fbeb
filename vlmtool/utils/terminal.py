"""What a person sees: one console for results, one for progress and errors, and a bar that is plain lines in a log."""

import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

# Controls but tab and newline, and whole CSI / OSC sequences: text of users and files must not steer a terminal.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """`text` without terminal control sequences."""
    return _CONTROL.sub("", text)


def out() -> Console:
    """Console for results (stdout)."""
    return Console(highlight=False, soft_wrap=True)


def err() -> Console:
    """Console for progress and errors (stderr)."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def progress(*columns: TextColumn) -> Progress:
    """A rich bar on stderr with counts, elapsed time and time left; `columns` stand before the times."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *columns,
        TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip


def track(items: Iterable[T], total: int, description: str, every: float = 10.0) -> Iterator[T]:
    """Yield `items` under a bar; away from a terminal, one plain line each `every` seconds.

    Nothing is printed for work that ends within two seconds.
    """
    if sys.stderr.isatty():
        with progress() as bar:
            task = bar.add_task(description, total=total)
            for item in items:
                yield item
                bar.advance(task)
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= every or (done == total and now - start > 2):
            left = (total - done) * (now - start) / done
            print(f"{description}: {done}/{total}, {done / (now - start):.1f}/s, {left:.0f} s left", file=sys.stderr)
            last = now
