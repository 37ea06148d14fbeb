"""What a data file shows in its first bytes: another encoding, a packed file, one object over many lines."""

import codecs
import json
from pathlib import Path

from vlmtool.utils.errors import DataError

HEAD = 1 << 16  # bytes: more than the first record of nearly every file
_MARGIN = 16  # characters: what the end of the head cuts, as a literal, is reported this near to the end
_PACKED = {
    b"\x1f\x8b": ("gzip", "gzip -dc"), b"PK\x03\x04": ("zip", "unzip -p"), b"BZh": ("bzip2", "bzip2 -dc"),
    b"\xfd7zXZ\x00": ("xz", "xz -dc"), b"\x28\xb5\x2f\xfd": ("zstd", "zstd -dc"),
}  # fmt: skip
_WIDE = {  # the longer marks first: UTF-32's begins as UTF-16's does
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16", b"[\0": "UTF-16LE", b"{\0": "UTF-16LE", b"\0[": "UTF-16BE", b"\0{": "UTF-16BE",
}  # fmt: skip


class WrongFile(DataError):
    """A file that holds no records, or none as they are read here; not one of it can be used."""


def check_head(path: Path) -> None:
    """Refuse a file that is not UTF-8 text, or neither an array nor one record a line.

    Raises:
        WrongFile: its first bytes show that.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD)
    for mark, (name, command) in _PACKED.items():
        if head.startswith(mark):
            raise WrongFile(f"{path}: the file is packed ({name}).\nUnpack it: {command} '{path}' > NEW_FILE")
    for mark, name in _WIDE.items():
        if head.startswith(mark):
            raise WrongFile(f"{path}: the file is {name}, not UTF-8.\n{_convert(path, name)}")
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if text.startswith("{") and _goes_over_lines(text, len(head) < HEAD):
        raise WrongFile(
            f"{path}: this file is one object over many lines.\n"
            "Give an array ([{…}, {…}]) or one record per line; the list alone where the object holds one."
        )


def not_utf8(path: Path, byte: int) -> DataError:
    """The error for bytes that are no UTF-8, `byte` being the first of them, from 0; names the line."""
    line = 1
    with open(path, "rb") as file:
        while (left := byte - file.tell()) > 0:
            line += file.read(min(left, HEAD)).count(b"\n")
    return DataError(f"{path}: not UTF-8 at byte {byte}, in line {line}; is it Latin-1?\n{_convert(path, 'LATIN1')}")


def no_records(path: Path) -> WrongFile:
    """The error for a file in which not one record stands."""
    with open(path, "rb") as file:
        head = file.read(HEAD).removeprefix(codecs.BOM_UTF8).strip()
    found = "the array is empty" if head else "there is no text in it" if path.stat().st_size else "it is empty"
    return WrongFile(f"{path}: no record: {found}.\nWas it written or downloaded to its end? Write or fetch it again.")


def _convert(path: Path, encoding: str) -> str:
    return f"Convert it: iconv -f {encoding} -t UTF-8 '{path}' > NEW_FILE"


def _goes_over_lines(text: str, is_whole: bool) -> bool:
    """The first line is no JSON by itself, but what begins in it goes on in the next ones.

    In JSON Lines with a broken first line it does not: the line after it begins anew, which no comma announces, or at
    least a later one is a record of its own.
    """
    first, _, rest = text.partition("\n")
    second = rest.lstrip()
    if not second or _is_json(first):
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        if second.startswith('"'):  # a key, unless records follow
            return not _is_json(_first_line(second)) and not any(map(_is_record, rest.split("\n")))
        return not is_whole and (error.msg.startswith("Unterminated string") or error.pos > len(text) - _MARGIN)
    except (ValueError, RecursionError):
        return False
    return end > len(first) and not _is_record(_first_line(text[end:].lstrip()))


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _is_record(line: str) -> bool:
    """A whole object that begins the line: what is inside another object is indented, or ends in a comma."""
    return line.startswith("{") and _is_json(line)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
