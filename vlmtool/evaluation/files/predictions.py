"""Answers that were given already: a file from anywhere, or the work dir's own append-only record."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from vlmtool.evaluation.files.json_files import read_json, read_json_lines
from vlmtool.evaluation.files.tsv import read_tsv
from vlmtool.evaluation.files.xlsx import read_xlsx
from vlmtool.utils.errors import DataError, UsageError
from vlmtool.utils.files import sync, write_text

_FORMATS = (".jsonl", ".json", ".tsv", ".xlsx")
SYNC_EVERY = 1.0  # seconds
_INDEX = re.compile(r"\s*([0-9]{1,18})(?:\.0+)?\s*")


class Reading(Protocol):
    """What of a benchmark tells how to read predictions for it; see `benchmark.Benchmark`."""

    answer_fields: ClassVar[tuple[str, ...]]

    def index_of(self, entry: Mapping[str, Any]) -> int | None:
        """The sample that an entry is for."""


class ByIndex:
    """Entries with `index` and `prediction`, as our own record has them."""

    answer_fields: ClassVar[tuple[str, ...]] = ("prediction",)

    def index_of(self, entry: Mapping[str, Any]) -> int:
        """Its `index`."""
        return row_index(entry)


def read_predictions(
    path: Path, reading: Reading | None = None, unknown: Callable[[str], None] | None = None
) -> dict[int, str]:
    """Read the answers of JSON Lines, JSON, TSV or xlsx, by sample; other columns are ignored, an empty answer is kept.

    Args:
        reading: the benchmark; entries have `index` and `prediction` unless it says otherwise.
        unknown: gets the place of each entry whose sample the benchmark does not have; it is left out.

    Raises:
        UsageError: the file's name ends in none of these.
        DataError: a line cannot be read, or one sample has two different answers. The message names the lines.
    """
    if path.suffix not in _FORMATS:
        raise UsageError(f"--predictions {path}: unknown kind of file. Use one that ends in {', '.join(_FORMATS)}.")
    reading = reading or ByIndex()
    predictions: dict[int, str] = {}
    lines: dict[int, int] = {}
    for line, cells in _entries(path):
        try:
            index, text = reading.index_of(cells), _answer(cells, reading.answer_fields)
        except DataError as error:
            raise DataError(f"{path}:{line}: {error}") from error
        if index is None:
            if unknown is not None:
                unknown(f"line {line}")
            continue
        if predictions.setdefault(index, text) != text:
            raise DataError(
                f"{path}:{line}: this question has another answer on line {lines[index]}. Keep one line for each."
            )
        lines.setdefault(index, line)
    return predictions


def row_index(entry: Mapping[str, Any]) -> int:
    """The `index` of an entry, as a number.

    Raises:
        DataError: it has none; half a sentence.
    """
    if "index" not in entry:
        raise DataError("no 'index'. Each line needs 'index' and 'prediction'.")
    value = entry["index"]
    match = None if isinstance(value, bool) else _INDEX.fullmatch(str(value))
    if match is None:
        raise DataError(f"index '{str(value)[:40]}' is not a whole number of 0 or more. Correct it.")
    return int(match.group(1))


def _answer(entry: Mapping[str, Any], fields: Sequence[str]) -> str:
    name = next((name for name in fields if name in entry), None)
    if name is None:
        raise DataError(f"no '{fields[0]}'. Each line names its question and has the answer.")
    value = entry[name]
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise DataError(f"'{name}' is {type(value).__name__}, not text. Write the answer as text.")
    return str(value).encode("utf-8", "replace").decode()  # a lone surrogate cannot be written again


def _entries(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix == ".tsv":
        yield from ((row.line, row.cells) for row in read_tsv(path).rows)
    elif path.suffix == ".xlsx":
        yield from read_xlsx(path)
    elif path.suffix == ".json":
        yield from _json(path)
    else:
        yield from read_json_lines(path)


def _json(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """A list of entries, or one object of answers by question id (MM-Vet's form)."""
    content = read_json(path)
    if isinstance(content, dict):
        content = [{"question_id": name, "prediction": answer} for name, answer in content.items()]
    if not isinstance(content, list):
        raise DataError(f"{path}: not a list of answers, nor an object of answers by question id.")
    for number, entry in enumerate(content, start=1):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: entry {number} is not a JSON object.")
        yield number, entry


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
        self._synced = 0.0

    def rank_path(self, rank: int) -> Path:
        """Where one of several processes appends."""
        return self.folder / f"predictions.rank{rank}.jsonl"

    def append(self, path: Path, answers: Iterable[Answer]) -> None:
        """Add answers at the end of `path`: no kill loses them, a power cut at most those of the last second."""
        with open(path, "a", encoding="utf-8") as handle:
            handle.write("".join(answer.line() for answer in answers))
        if time.monotonic() - self._synced >= SYNC_EVERY:  # a disk may need longer for it than a model for an answer
            sync(path)
            self._synced = time.monotonic()

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
