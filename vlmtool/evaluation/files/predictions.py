"""Answers that were given already, in a file from anywhere."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from vlmtool.evaluation.files.json_files import read_json, read_json_lines
from vlmtool.evaluation.files.tsv import read_tsv
from vlmtool.evaluation.files.xlsx import read_xlsx
from vlmtool.utils.errors import DataError, UsageError

_FORMATS = (".jsonl", ".json", ".tsv", ".xlsx")
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
    path: Path,
    reading: Reading | None = None,
    unknown: Callable[[str], None] | None = None,
    chosen_by: str = "",
) -> dict[int, str]:
    """Read the answers of JSON Lines, JSON, TSV or xlsx, by sample; other columns are ignored, an empty answer is kept.

    Args:
        reading: the benchmark; entries have `index` and `prediction` unless it says otherwise.
        unknown: gets the place of each entry whose sample the benchmark does not have; it is left out.
        chosen_by: what every entry must say of itself; see `Answer`.

    Raises:
        UsageError: the file's name ends in none of these.
        DataError: a line cannot be read, answers were made in another way than `chosen_by` says, or one sample has two
            different answers. The message names the lines.
    """
    if path.suffix not in _FORMATS:
        raise UsageError(f"--predictions {path}: unknown kind of file. Use one that ends in {', '.join(_FORMATS)}.")
    reading = reading or ByIndex()
    predictions: dict[int, str] = {}
    lines: dict[int, int] = {}
    for line, cells in _entries(path):
        try:
            _check_way(cells, chosen_by)
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


def _check_way(entry: Mapping[str, Any], chosen_by: str) -> None:
    """Answers that a model wrote and those that it chose are never scored as one another."""
    said = str(entry.get("chosen_by") or "")
    if said and said != chosen_by:
        raise DataError(f"this answer was not written but chosen by {said[:40]}. Add --score likelihood.")
    if chosen_by and not said:
        raise DataError(f'this answer does not say "chosen_by": "{chosen_by}". Leave --score {chosen_by} out.')


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
