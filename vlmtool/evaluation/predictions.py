"""Answers that were given already: a file from anywhere, or the work dir's own append-only record."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtool.evaluation.tsv import read_tsv
from vlmtool.evaluation.xlsx import read_xlsx
from vlmtool.utils.errors import DataError, UsageError
from vlmtool.utils.files import sync, write_text

_COLUMNS = ("index", "prediction")
_FORMATS = (".jsonl", ".tsv", ".xlsx")
_INDEX = re.compile(r"\s*([0-9]{1,18})(?:\.0+)?\s*")


def read_predictions(path: Path) -> dict[int, str]:
    """Read `index` and `prediction` from JSON Lines, TSV or xlsx; other columns are ignored, an empty answer is kept.

    Raises:
        UsageError: the file's name ends in none of these.
        DataError: a line cannot be read, or one index has two different answers. The message names the lines.
    """
    if path.suffix not in _FORMATS:
        raise UsageError(f"--predictions {path}: unknown kind of file. Use one that ends in {', '.join(_FORMATS)}.")
    predictions: dict[int, str] = {}
    lines: dict[int, int] = {}
    for line, cells in _entries(path):
        for name in _COLUMNS:
            if name not in cells:
                raise DataError(f"{path}:{line}: no '{name}'. Each line needs 'index' and 'prediction'.")
        index, text = _index(path, line, cells["index"]), _text(path, line, cells["prediction"])
        if predictions.setdefault(index, text) != text:
            raise DataError(
                f"{path}:{line}: index {index} has another answer on line {lines[index]}. Keep one line for each index."
            )
        lines.setdefault(index, line)
    return predictions


def _entries(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix == ".tsv":
        yield from ((row.line, row.cells) for row in read_tsv(path).rows)
    elif path.suffix == ".xlsx":
        yield from read_xlsx(path, _COLUMNS)
    else:
        yield from _json_lines(path)


def _json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON ({error}). Each line is one JSON object.") from error
        if not isinstance(entry, dict):
            raise DataError(f'{path}:{number}: not a JSON object. Write {{"index": 5, "prediction": "A"}}.')
        yield number, entry


def _index(path: Path, line: int, value: Any) -> int:
    match = None if isinstance(value, bool) else _INDEX.fullmatch(str(value))
    if match is None:
        raise DataError(f"{path}:{line}: index '{str(value)[:40]}' is not a whole number of 0 or more. Correct it.")
    return int(match.group(1))


def _text(path: Path, line: int, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise DataError(f"{path}:{line}: 'prediction' is {type(value).__name__}, not text. Write the answer as text.")
    return str(value).encode("utf-8", "replace").decode()  # a lone surrogate cannot be written again


@dataclass(frozen=True)
class Answer:
    """One answer and the key of what was asked: row, prompt, model, settings. No key: a file gave the answer."""

    index: int
    prediction: str
    key: str = ""

    def line(self) -> str:
        """The answer as one line of JSON."""
        entry: dict[str, Any] = {"index": self.index, "prediction": self.prediction}
        return json.dumps(entry | ({"key": self.key} if self.key else {}), ensure_ascii=False) + "\n"


class AnswerStore:
    """`predictions.jsonl` in a work dir, and while several processes answer, `predictions.rankN.jsonl` beside it.

    Each answer is appended once and never changed. Answers to another prompt, model or setting move to
    `predictions.old.jsonl`, from where they are taken again when asked for with the same key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "predictions.jsonl"
        self.old_path = folder / "predictions.old.jsonl"

    def rank_path(self, rank: int) -> Path:
        """Where one of several processes appends."""
        return self.folder / f"predictions.rank{rank}.jsonl"

    def append(self, path: Path, answers: Iterable[Answer]) -> None:
        """Add answers at the end of `path`, on disk when this returns."""
        with open(path, "a", encoding="utf-8") as handle:
            handle.write("".join(answer.line() for answer in answers))
        sync(path)

    def settle(self, keys: Mapping[int, str]) -> dict[int, str]:
        """Bring `predictions.jsonl` to the answers whose key is asked for, each once; one process does this at a time.

        Args:
            keys: by index, the key of what is asked now, in the order of the samples.

        Returns:
            By index, the answers at hand.
        """
        found = self._all()
        current = {(answer.index, answer.key): answer for answer in found if keys.get(answer.index) == answer.key}
        wanted = [current[index, key] for index, key in keys.items() if (index, key) in current]
        self._keep(found, wanted)
        return {answer.index: answer.prediction for answer in wanted}

    def settled(self, keys: Mapping[int, str]) -> dict[int, str]:
        """What `settle` returned, read again without changing anything (for the other processes)."""
        answers = _whole_lines(self.path) if self.path.exists() else ()
        return {answer.index: answer.prediction for answer in answers if keys.get(answer.index) == answer.key}

    def replace(self, predictions: Mapping[int, str]) -> None:
        """Make given answers the content of `predictions.jsonl`; what stood there moves to `predictions.old.jsonl`."""
        self._keep(self._all(), [Answer(index, text) for index, text in predictions.items()])

    def _keep(self, found: Sequence[Answer], wanted: Sequence[Answer]) -> None:
        # The old ones first: after a kill between the two writes each answer stands in one file at least.
        kept = set(wanted)
        old = list(dict.fromkeys(answer for answer in found if answer not in kept))
        if old or self.old_path.exists():
            write_text(self.old_path, "".join(answer.line() for answer in old))
        write_text(self.path, "".join(answer.line() for answer in wanted))
        for path in self._rank_paths():
            path.unlink()

    def _all(self) -> list[Answer]:
        paths = [self.old_path, self.path, *self._rank_paths()]
        return [answer for path in paths if path.exists() for answer in _whole_lines(path)]

    def _rank_paths(self) -> list[Path]:
        return sorted(self.folder.glob("predictions.rank*.jsonl"))


def _whole_lines(path: Path) -> Iterator[Answer]:
    """The answers of an own file. A line that a kill cut short is no answer yet: its row is asked again."""
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue
        match entry:
            case {"index": int(index), "prediction": str(text)}:
                yield Answer(index, text, str(entry.get("key", "")))
