"""Which benchmarks lie below a folder: by the names of the official files, and where these do not tell, by content."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmtool.evaluation.benchmark import Benchmark
from vlmtool.evaluation.report import METRICS_FILE

_ENDINGS = (".json", ".jsonl", ".tsv")


@dataclass(frozen=True)
class Discovery:
    """What lies below a folder.

    Attributes:
        found: name and data path of each benchmark, in the order of the names.
        unrecognised: files that look like a benchmark's, and belong to none that was found.
        missing: names of the benchmarks that nothing was found of.
    """

    found: Sequence[tuple[str, Path]]
    unrecognised: Sequence[Path]
    missing: Sequence[str]


def discover(classes: Mapping[str, type[Benchmark]], root: Path) -> Discovery:
    """Look at every file and folder below `root`, `root` itself among them; links are followed, each folder once.

    What `Benchmark.places` names is taken first, then what a benchmark recognises. Nothing is looked for below a folder
    that was taken, nor in results of an evaluation.
    """
    taken: list[tuple[str, Path]] = []
    left: list[Path] = []
    folders: set[Path] = set()  # taken
    for path in _walk(root, folders):
        name = _owner(classes, path)
        if name is None:
            left.append(path)
            continue
        taken.append((name, path))
        if path.is_dir():
            folders.add(path)
    found = sorted(taken)
    beside = {path.parent for _, path in found if path.is_file()}
    odd = [path for path in left if path.is_file() and _looks_like_one(classes, path, path.parent in beside)]
    return Discovery(found, odd, [name for name in classes if name not in dict(found)])


def _walk(root: Path, taken: set[Path]) -> Iterator[Path]:
    """Folders before what is in them. The caller adds the folders that shall not be entered to `taken`."""
    seen: set[str] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or METRICS_FILE in files:
            folders.clear()
            continue
        seen.add(real)
        yield Path(place)
        if Path(place) in taken:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if name.endswith(_ENDINGS) and name[0] != ".")


def _owner(classes: Mapping[str, type[Benchmark]], path: Path) -> str | None:
    """The benchmark that a file or folder is the data of."""
    named = (name for name, kind in classes.items() if any(path.match(place) for place in kind.places))
    known = (name for name, kind in classes.items() if kind.recognizes(path))
    return next(named, None) or next(known, None)


def _looks_like_one(classes: Mapping[str, type[Benchmark]], path: Path, is_beside_data: bool) -> bool:
    """Any table; a JSON file that is called like a benchmark and does not accompany one."""
    if path.suffix == ".tsv":
        return True
    stem = path.stem.lower().replace("-", "")
    return not is_beside_data and any(re.search(rf"(?<![a-z]){re.escape(name)}", stem) for name in classes)
