"""Spreadsheets in which text stays text: no formulas, no error values, no control characters, no cell too long."""

import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from vlmtool.utils.errors import DataError
from vlmtool.utils.files import atomic_path

CELL_LIMIT = 32_767  # UTF-16 units, Excel's limit
UNPACKED_LIMIT = 2**28  # bytes of XML, of which openpyxl makes many times as much; 20,000 long answers take 80 MB

# What XML 1.0 cannot hold: control characters but tab and line breaks, lone surrogates, two non-characters.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_xlsx(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | int]]) -> None:
    """Write one sheet, whole or not at all. Strings are cut to what a cell can hold; numbers stay numbers."""
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    for row in [header, *rows]:
        sheet.append([_cell(sheet, value) for value in row])
    with atomic_path(path) as temporary:
        book.save(temporary)


def _cell(sheet: Any, value: str | int) -> Any:
    from openpyxl.cell import WriteOnlyCell

    if not isinstance(value, str):
        return WriteOnlyCell(sheet, value)
    cell = WriteOnlyCell(sheet, cell_text(value))
    if value:
        cell.data_type = "s"  # openpyxl reads "=1+1" as a formula and "#N/A" as an error
    return cell


def cell_text(text: str) -> str:
    """`text` as a spreadsheet cell can hold it."""
    units = _ILLEGAL.sub("", text).encode("utf-16-le")
    return units[: 2 * CELL_LIMIT].decode("utf-16-le", errors="ignore")


def read_xlsx(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Number and cells (None where empty) of each row of the first sheet that is not empty; formulas give their value.

    Raises:
        DataError: not a spreadsheet, or one that unpacks into more than `UNPACKED_LIMIT`.
    """
    from openpyxl import load_workbook

    try:
        with open(path, "rb") as handle:
            _check_unpacked(path, handle)
            sheet = load_workbook(handle, read_only=True, data_only=True).worksheets[0]
            sheet.reset_dimensions()  # some programs record too few rows or columns: the others would be lost
            return list(_cells(path, sheet.iter_rows(values_only=True)))
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, the XML parser and openpyxl raise anything on a damaged file
        raise DataError(f"{path}: not a readable xlsx file ({error}). Save it again as an Excel workbook.") from error


def _check_unpacked(path: Path, handle: BinaryIO) -> None:
    """A few kilobytes of zip can hold gigabytes of the same letter."""
    with zipfile.ZipFile(handle) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    handle.seek(0)
    if size > UNPACKED_LIMIT:
        raise DataError(
            f"{path}: it unpacks to {size:,} bytes, {UNPACKED_LIMIT:,} are the limit. Save the answers as JSON Lines."
        )


def _cells(path: Path, lines: Iterator[Sequence[Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    header = next(lines, None)
    if header is None:
        raise DataError(f"{path}: the first sheet is empty. Its first row names the columns.")
    names = ["" if name is None else str(name).strip() for name in header]
    places = {name: names.index(name) for name in names if name}
    for number, line in enumerate(lines, start=2):
        if any(value is not None for value in line):
            yield number, {name: line[place] if place < len(line) else None for name, place in places.items()}
