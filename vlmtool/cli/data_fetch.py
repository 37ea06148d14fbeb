"""`vlmtool data fetch`: download public data sets to where recipes and benchmarks look for them."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmtool.utils.errors import DataError, UsageError
from vlmtool.utils.terminal import clean

if TYPE_CHECKING:
    from vlmtool.data.data_sets import DataSet, Sources, Step

EVERY = 10.0  # seconds between two lines about a download


def fetch(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A data set or benchmark; --list shows them.")
    ] = None,
    into: Annotated[Path, typer.Option(help="Folder of all data.")] = Path("data"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="List every name with its page and licence.")] = False,
    sources: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another list of addresses, such as your own mirror's.")
    ] = None,
    allow_local_urls: Annotated[
        bool, typer.Option("--allow-local-urls", help="Fetch from this machine's network, too.")
    ] = False,
) -> None:
    """Download a data set to where recipes and benchmarks look. A broken download goes on where it stopped.

    Exit code 1: something failed, or is left to be done by hand.
    """
    from vlmtool.data.data_sets import SHIPPED, plan, read_sources
    from vlmtool.utils.files import check_writable

    known = read_sources(sources or SHIPPED)
    if list_all:
        _print_all(known)
        return
    if name is None:
        raise UsageError(f"NAME is missing.\nThere are: {', '.join(known.sets)}; --list tells more.")
    data_set, files = known.of(name)
    steps = plan(files, into)
    _print_plan(name, data_set, steps, into)
    if dry_run:
        return
    check_writable(into, "--into")
    _carry_out(steps, into, allow_local_urls)
    by_hand = sum(step.state == "by hand" for step in steps)
    if by_hand:
        raise DataError(f"{name}: {by_hand} of {len(steps)} are left to be done by hand, as told above.")
    print(f"{name}: complete.")


def _carry_out(steps: "list[Step]", root: Path, allow_local: bool) -> None:
    """Every step that can be done; one that fails does not keep the others from being done."""
    from vlmtool.data.data_sets import carry_out

    failures: list[DataError] = []
    for step in steps:
        if step.state not in ("fetch", "unpack"):
            continue
        try:
            carry_out(step, root, allow_local, _progress(step.source.place))
        except DataError as error:
            failures.append(error)
            print(clean(f"failed: {root / step.source.place}"))
        else:
            print(clean(f"done: {root / step.source.place}"))
    if failures:
        more = f" ({len(failures) - 1} more failed)" if len(failures) > 1 else ""
        what, *remedy = str(failures[0]).splitlines()
        raise DataError("\n".join([what + more, *remedy])) from failures[0]


def _progress(name: str) -> Callable[[int, int | None], None]:
    """Prints a line now and then."""
    last = time.monotonic()

    def show(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY:
            of = f" of {total / 1e9:.2f}" if total else ""
            print(clean(f"{name}: {done / 1e9:.2f}{of} GB"), file=sys.stderr)
            last = now

    return show


def _print_all(known: "Sources") -> None:
    for name, data_set in known.sets.items():
        print(f"{name}: {data_set.what}\n  {data_set.page}\n  licence: {data_set.licence}")


def _print_plan(name: str, data_set: "DataSet", steps: "list[Step]", root: Path) -> None:
    """What is done about each file, and where it goes."""
    print(clean(f"{name}: {data_set.what}\n{data_set.page}\nlicence: {data_set.licence}"))
    for step in steps:
        source = step.source
        how = source.by_hand if step.state == "by hand" else source.url if step.state == "fetch" else ""
        print(clean(f"  {step.state}: {root / source.place}" + (f"\n    {how}" if how else "")))
