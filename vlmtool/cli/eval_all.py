"""`vlmtool eval all`: which benchmarks lie below a folder, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vlmtool.cli.evaluation import Job
from vlmtool.utils.errors import DataError, UsageError
from vlmtool.utils.terminal import clean

if TYPE_CHECKING:
    from vlmtool.evaluation.benchmark import Options


@dataclass(frozen=True)
class AllJobs:
    """The benchmarks that can be scored, the names of those that cannot be read, and what else a person should know."""

    jobs: list[Job]
    broken: list[str]
    notes: list[str]


def find_all(data_root: str, in_place: Callable[[Path], Options], folder: Path, has_judge: bool) -> AllJobs:
    """Every benchmark whose files lie below a folder.

    Args:
        in_place: the options with their judge, whose replies are kept in the given folder.

    Raises:
        UsageError: there is no such folder, or nothing in it. DataError: nothing of it can be read.
    """
    from vlmtool.evaluation.catalog import benchmark_classes, open_benchmark
    from vlmtool.evaluation.discovery import discover

    if not data_root:
        raise UsageError("eval all: --data-root is missing. Give the folder that holds the benchmarks' folders.")
    root = Path(data_root)
    if not root.is_dir():
        raise UsageError(
            f"--data-root {data_root}: no such folder. Give the folder that holds the benchmarks' folders."
        )
    classes = benchmark_classes()
    known = discover(classes, root)
    odd = [f"not recognised: {', '.join(str(path.relative_to(root)) for path in known.unrecognised)}"]
    notes = odd * bool(known.unrecognised) + [f"not found: {', '.join(known.missing)}"] * bool(known.missing)
    unjudged = {name for name, _ in known.found if not has_judge and getattr(classes[name], "needs_judge", False)}
    for name in sorted(unjudged):
        typer.echo(f"Warning: {name} is left out: it needs --judge-url and --judge-model.", err=True)
    found = [(name, path) for name, path in known.found if name not in unjudged]
    if not found:
        raise UsageError(
            f"--data-root {data_root}: no benchmark's files are below it. Looked for: {', '.join(classes)}."
            + "".join(f"\n{clean(line)}" for line in odd * bool(known.unrecognised))
        )
    jobs: list[Job] = []
    broken: list[str] = []
    for (name, path), place in zip(found, result_folders(found, folder), strict=True):
        try:
            jobs.append(Job(open_benchmark(name, path, in_place(place)), place))
        except DataError as error:  # the others are scored all the same; the exit code tells
            typer.echo(clean(f"Warning: {name} is left out: {error}"), err=True)
            broken.append(f"{name} ({path.name})")
    if not jobs:
        raise DataError(f"{data_root}: none of its benchmarks can be read: {', '.join(broken)}. See the warnings.")
    return AllJobs(jobs, broken, notes)


def result_folders(found: list[tuple[str, Path]], folder: Path) -> list[Path]:
    """A folder for each benchmark; where there are several of one name, with the name of its file, or a number."""
    names = [name for name, _ in found]
    labels = [name if names.count(name) == 1 else f"{name}_{path.stem}" for name, path in found]
    return [
        folder / (label if labels.count(label) == 1 else f"{label}_{labels[:place].count(label) + 1}")
        for place, label in enumerate(labels)
    ]
