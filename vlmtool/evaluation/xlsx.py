"""Spreadsheets in which text stays text: no formulas, no error values, no control characters, no cell too long."""

import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vlmtool.utils.errors import DataError
from vlmtool.utils.files import atomic_path

CELL_LIMIT = 32_767  # UTF-16 units, Excel's limit

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


def read_xlsx(path: Path) -> tuple[tuple[str, ...], list[tuple[int, dict[str, Any]]]]:
    """The first sheet: its columns, and each row's number with its cells (None where empty).

    Raises:
        DataError: not a spreadsheet.
    """
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with open(path, "rb") as handle:
            sheet = load_workbook(handle, read_only=True, data_only=True).worksheets[0]
            lines = list(sheet.iter_rows(values_only=True))
    except (zipfile.BadZipFile, InvalidFileException, KeyError, ValueError, IndexError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable xlsx file ({error}). Save it again as an Excel workbook.") from error
    if not lines:
        raise DataError(f"{path}: the first sheet is empty. Its first row names the columns.")
    columns = tuple("" if name is None else str(name).strip() for name in lines[0])
    rows = [(number, dict(zip(columns, line, strict=False))) for number, line in enumerate(lines[1:], start=2)]
    return columns, [(number, row) for number, row in rows if any(value is not None for value in row.values())]
