"""One file of records out of many items: checked, each with an id of its own, written whole or not at all."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from vlmtool.data.convert.items import Converted, Item, Skipped
from vlmtool.data.formats.llava import RecordError, image_paths, parse_record
from vlmtool.data.picture_file import DAMAGED, open_header
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import DataError, message_lines
from vlmtool.utils.files import atomic_path, remove


@dataclass
class Counts:
    """What came in and what went out."""

    read: int = 0
    """Records of the sources; one of them may give several."""
    written: int = 0
    renamed: int = 0
    """Records whose id was used before, and got a number."""
    skipped: Counter[str] = field(default_factory=Counter)
    """By reason."""


def skipped_path(path: Path) -> Path:
    """Where the records are listed that were left out."""
    return path.with_name(f"{path.name}.skipped.jsonl")


def write_records(
    items: Iterable[Item], path: Path, max_skipped: int = 0, find_picture: Callable[[str], str] | None = None
) -> Counts:
    """Write the records to `path`, an array, or one a line where its name ends in .jsonl; list the others beside it.

    Args:
        max_skipped: with more left out than that nothing is written but their list.
        find_picture: gives what is wrong with a picture of that name, or an empty text.

    Raises:
        DataError: too many were left out, none is left, or a source cannot be read on.
    """
    writer = _Writer(find_picture)
    listed = skipped_path(path)
    with atomic_path(listed) as beside, open(beside, "w", encoding="utf-8") as skipped:
        try:
            with atomic_path(path) as temporary:
                with open(temporary, "w", encoding="utf-8") as file:
                    writer.write(items, file, skipped, path.suffix == ".jsonl")
                _check(writer.counts, path, max_skipped)
        except _TooFew as error:
            failure: DataError | None = DataError(str(error))
        else:
            failure = None
    if not writer.counts.skipped:
        remove(listed)
    if failure is not None:
        raise failure
    return writer.counts


class _TooFew(Exception):
    """Nothing is written; the list of what was left out is kept."""


def _check(counts: Counts, path: Path, max_skipped: int) -> None:
    number = counts.skipped.total()
    if number > max_skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.skipped.most_common())
        raise _TooFew(
            f"{counted(number, 'record')} of {counts.read:,} cannot be converted ({reasons}); nothing was written.\n"
            f"{skipped_path(path)} lists each. Mend them, or leave them out: --max-skipped {number}."
        )
    if not counts.written:
        raise _TooFew(f"{path}: not written: the sources hold no record.\nWere they downloaded to their end?")


class _Writer:
    """What is remembered from record to record: the ids, the pictures that were looked at, the counts."""

    def __init__(self, find_picture: Callable[[str], str] | None) -> None:
        self.counts = Counts()
        self._find_picture = find_picture
        self._found: dict[str, str] = {}
        self._uses: Counter[str] = Counter()
        self._origin = ""

    def write(self, items: Iterable[Item], file: IO[str], skipped: IO[str], lines: bool) -> None:
        """Write each item to one of the files."""
        between = "" if lines else "[\n"
        for item in items:
            self.counts.read += item.origin != self._origin
            self._origin = item.origin
            if isinstance(item, Converted):
                item = self._checked(item)
            if isinstance(item, Skipped):
                self.counts.skipped[item.reason] += 1
                skipped.write(_line({"origin": item.origin, "reason": item.reason, "detail": item.detail}) + "\n")
                continue
            file.write(between + _line(item.value) + ("\n" if lines else ""))
            between = "" if lines else ",\n"
            self.counts.written += 1
        if not lines:
            file.write(f"{between if not self.counts.written else ''}\n]\n")

    def _checked(self, item: Converted) -> Item:
        """The record as training will read it, its id used once only."""
        try:
            parse_record(item.value, item.origin, "")
        except RecordError as error:
            return Skipped(item.origin, f"wrong {error.kind}", message_lines(error)[0].removeprefix(f"{item.origin}: "))
        for image in image_paths(item.value) if self._find_picture else ():
            if image not in self._found:
                self._found[image] = self._find_picture(image)  # type: ignore[misc]
            if self._found[image]:
                return Skipped(item.origin, "picture", self._found[image])
        return Converted(item.origin, {**item.value, "id": self._own_id(item.value["id"])})

    def _own_id(self, name: str) -> str:
        own = name
        while own in self._uses:
            self._uses[name] += 1
            own = f"{name}.{self._uses[name]}"
        self._uses[own] = 1
        self.counts.renamed += own != name
        return own


def _line(value: dict[str, Any]) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a character, which only an escape can spell
        return json.dumps(value)
    return text


def missing_picture(folder: Path) -> Callable[[str], str]:
    """Says what is wrong with a picture of `folder`, by its header; an empty text where nothing is."""

    def find(name: str) -> str:
        try:
            with open_header(folder / name):
                return ""
        except FileNotFoundError:
            return f"{folder / name}: there is no such file"
        except DAMAGED as error:
            return f"{folder / name}: {message_lines(error)[0]}"

    return find
