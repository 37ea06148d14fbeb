"""Records of a JSON array or of JSON Lines as a stream: memory for one block and one record, however long the file."""

import codecs
import io
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vlmtool.data.formats.file_head import check_head, not_utf8
from vlmtool.utils.errors import DataError, UsageError

BLOCK = 1 << 20  # bytes read at a time
LONGEST = 64 << 20  # characters of a record: one that goes on for longer has lost a bracket or a quote
_MARGIN = 16  # characters: a number, literal or escape that the end of a block cuts is reported this near to the end
_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


class Record(NamedTuple):
    """One record of a file."""

    origin: str
    """`file:line`, or `file: record N` in an array."""
    number: int
    """Of the line, or of the record; from 1."""
    value: Any
    error: DataError | None = None
    """A line that is no JSON; `value` is None."""
    text: str | None = None
    """Its JSON, as the file has it."""


def read_records(path: Path) -> Iterator[Record]:
    """A JSON array, or one record a line; told apart by the first character.

    Raises:
        UsageError: there is no such file. DataError: it is not UTF-8, an array that is not valid JSON, or one object.
    """
    return chain.from_iterable(read_blocks(path))


def read_blocks(path: Path, block: int = BLOCK) -> Iterator[list[Record]]:
    """The same, in about `num_blocks(path)` lists: of each block of the file, the records that end in it.

    Args:
        block: bytes.
    """
    if not path.is_file():
        what = ": it is a folder" if path.is_dir() else ""
        raise UsageError(
            f"There is no data file '{path}'{what}.\nPoint to it: --set data.path=FILE (or data.val_path)."
        )
    check_head(path)
    return (_array if is_array(path, block) else _lines)(path, block)


def is_array(path: Path, block: int = BLOCK) -> bool:
    """Whether the file begins as a JSON array does; else each line holds a record."""
    return next((text.lstrip()[0] for text, _ in _texts(path, block) if text.strip()), "") == "["


def origin_of(path: Path, number: int, in_array: bool) -> str:
    """Where a record stands, for messages."""
    return f"{path}: record {number}" if in_array else f"{path}:{number}"


def num_blocks(path: Path, block: int = BLOCK) -> int:
    """How many lists `read_blocks` gives, to show how far it is."""
    return path.stat().st_size // block + 1


def _texts(path: Path, block: int) -> Iterator[tuple[str, bool]]:
    """Text of each block, as `open` reads it: no byte order mark, line ends as "\\n"; and whether it is the last."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
    with open(path, "rb") as file:
        place = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
        file.seek(place)
        last = False
        while not last:
            data = file.read(block)
            last = len(data) < block
            unread = len(decoder.getstate()[0])  # bytes of a character that the block before has begun
            try:
                text = newlines.decode(data, final=last)
            except UnicodeDecodeError as error:
                raise not_utf8(path, place - unread + error.start) from error
            yield text, last
            place += len(data)


def _lines(path: Path, block: int) -> Iterator[list[Record]]:
    number, rest = 0, ""
    for text, last in _texts(path, block):
        *lines, rest = (rest + text).split("\n")
        if last:
            lines.append(rest)
        elif len(rest) > LONGEST:
            raise DataError(
                f"{path}:{number + len(lines) + 1}: the line is longer than {LONGEST >> 20} MB.\n"
                "Each line holds one record."
            )
        numbered = enumerate(lines, number + 1)
        yield [_from_line(origin_of(path, place, False), place, line) for place, line in numbered if line.strip()]
        number += len(lines)


def _from_line(origin: str, number: int, line: str) -> Record:
    try:
        return Record(origin, number, json.loads(line), text=line)
    except (ValueError, RecursionError) as error:
        defect = DataError(f"{origin}: not valid JSON: {error}\nEach line holds one record.")
        return Record(origin, number, None, defect)


def _array(path: Path, block: int) -> Iterator[list[Record]]:
    array = _ArrayReader()
    number = 0
    for text, last in _texts(path, block):
        records: list[Record] = []
        defect: DataError | None = None
        try:
            for value, its_text in array.feed(text, last):
                number += 1
                records.append(Record(origin_of(path, number, True), number, value, text=its_text))
        except _NotJson as error:
            defect = DataError(
                f"{path}: not valid JSON: {error}, after record {number}\nWas the file cut while it was copied?"
            )
        yield records
        if defect is not None:
            raise defect


class _NotJson(Exception):
    """What is wrong, and where."""


class _ArrayReader:
    """Values of a JSON array whose text comes in pieces; errors are worded and placed as `json.loads` does."""

    def __init__(self) -> None:
        self._text = ""
        """What has come and is not read yet."""
        self._read = 0
        """Characters before `_text`."""
        self._line, self._line_start = 1, 0
        """Where `_text` begins: line, and the number of the line's first character."""
        self._next: Literal["[", "value or ]", "value", "nothing"] = "["
        self._wait = 0
        """Length of `_text` from which on a cut value is tried again: doubled, or long values would cost squares."""

    def feed(self, text: str, last: bool) -> Iterator[tuple[Any, str]]:
        """Take the next piece; yields the values that are complete, each with its text.

        Raises:
            _NotJson: the array ends early or late, or holds what is no JSON.
        """
        self._text += text
        if len(self._text) < self._wait and not last:
            return
        self._wait = 0
        place = self._skip_space(0)
        while place < len(self._text):
            char = self._text[place]
            if self._next == "nothing":
                raise self._error("Extra data", place)
            if self._next == "[" and char == "[":
                self._next, place = "value or ]", place + 1
            elif self._next == "value or ]" and char == "]":
                self._next, place = "nothing", place + 1
            else:
                found = self._value(place, last)
                if found is None:
                    break
                start, (value, place) = place, found
                self._next = "value" if self._text[place] == "," else "nothing"
                yield value, self._text[start:place]
                place += 1
            place = self._skip_space(place)
        if last and self._next != "nothing":
            raise self._error("Expecting value", place)
        self._drop(place)

    def _value(self, place: int, last: bool) -> tuple[Any, int] | None:
        """The value at `place` and where the comma or bracket after it stands; None where more text is needed."""
        try:
            value, end = _decode(self._text, place)
        except json.JSONDecodeError as error:
            what, where = error.msg, error.pos
        except RecursionError as error:
            raise self._error(str(error), place) from error
        except ValueError as error:  # a whole number longer than Python reads
            raise self._error("a number of too many digits", place) from error
        else:
            what, where = "Expecting ',' delimiter", self._skip_space(end)
            if self._text[where : where + 1] in (",", "]"):
                return value, where
        may_be_cut = what.startswith("Unterminated string") or where > len(self._text) - _MARGIN
        if last or not may_be_cut:
            raise self._error(what, where)
        length = len(self._text) - place
        if length > LONGEST:
            raise self._error(f"a record of more than {LONGEST >> 20} MB, is a bracket or quote missing?", place)
        self._wait = 2 * length
        return None

    def _skip_space(self, place: int) -> int:
        match = _SPACE.match(self._text, place)
        return match.end() if match else place

    def _drop(self, place: int) -> None:
        """Forget what is read."""
        newline = self._text.rfind("\n", 0, place)
        if newline >= 0:
            self._line += self._text.count("\n", 0, place)
            self._line_start = self._read + newline + 1
        self._read += place
        self._text = self._text[place:]

    def _error(self, what: str, place: int) -> _NotJson:
        line = self._line + self._text.count("\n", 0, place)
        newline = self._text.rfind("\n", 0, place)
        line_start = self._read + newline + 1 if newline >= 0 else self._line_start
        char = self._read + place
        return _NotJson(f"{what}: line {line} column {char - line_start + 1} (char {char})")
