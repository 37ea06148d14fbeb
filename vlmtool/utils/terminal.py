"""What a person sees: one console for results, one for progress and errors, and a bar that is plain lines in a log."""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")

_LONGEST = 10_000  # columns of a line

# Whole sequences first, so that their remains do not show: CSI, and the strings OSC, DCS, SOS, PM and APC that end on
# their line. Then every control left, but tab and newline: without ESC and its 8-bit forms nothing else is a sequence,
# so a text that is cleaned piece by piece is as safe. The bidirectional overrides and isolates go too: they make a path
# or a command read differently than it is.
_CONTROL = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f\n]*(?:\x07|\x1b\\|\x9c)"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # of file names that are not UTF-8: no terminal takes it


def clean(text: str) -> str:
    """`text` of a user, a file or a model, without anything that steers a terminal. Its lines stay lines."""
    return _LONE_SURROGATE.sub("\ufffd", _CONTROL.sub("", text))


def clean_line(text: str) -> str:
    """The same for a name inside a line: it cannot begin a line of its own, or a further column."""
    return clean(text).replace("\n", " ").replace("\t", " ")


def out() -> Console:
    """Console for results (stdout)."""
    return Console(highlight=False, emoji=False, markup=False, soft_wrap=True)


def err() -> Console:
    """Console for progress and errors (stderr)."""
    return Console(stderr=True, highlight=False, emoji=False, markup=False, soft_wrap=True)


def print_table(console: Console, table: Table) -> None:
    """Print `table` with lines as long as they need: a path that is broken cannot be copied."""
    needed = console.measure(table, options=console.options.update(max_width=_LONGEST))
    console.width = max(console.width, needed.maximum)
    console.print(table)


def progress(*columns: TextColumn) -> Progress:
    """A rich bar on stderr with counts, elapsed time and time left; `columns` stand before the times."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *columns,
        TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip


def track(
    items: Iterable[T], total: int, description: str, every: float = 10.0, count: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """Yield `items` under a bar; away from a terminal, one plain line each `every` seconds.

    Nothing is printed for work that ends within two seconds.

    Args:
        count: what an item adds to what is done of `total`.
    """
    if sys.stderr.isatty():
        with progress() as bar:
            task = bar.add_task(description, total=total)
            for item in items:
                yield item
                bar.advance(task, count(item))
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += count(item)
        now = time.monotonic()
        if now - last >= every or (done == total and now - start > 2):
            left = (total - done) * (now - start) / done
            print(f"{description}: {done}/{total}, {done / (now - start):.1f}/s, {left:.0f} s left", file=sys.stderr)
            last = now
