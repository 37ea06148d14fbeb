"""Tab-separated tables with quoted cells: every cell is text, and a broken table is an error that names the line."""

import csv
from dataclasses import dataclass
from pathlib import Path

from vlmtool.utils.errors import DataError


@dataclass(frozen=True)
class TsvRow:
    """One row: the line of the file on which it starts and its cells; an empty cell is an empty string."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class TsvTable:
    """A file's columns in order, and its rows."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[TsvRow, ...]


def read_tsv(path: Path) -> TsvTable:
    """Read a UTF-8 table whose first row names the columns.

    Cells are never interpreted: "None", "nan" and "3" stay as they are written. Quoted cells may span lines.

    Raises:
        DataError: not UTF-8, a quote that is not closed, a row with more or fewer cells than the header, a column
            named twice. The message names the line.
    """
    before = csv.field_size_limit(2**31 - 1)  # a picture in a cell is larger than the default limit of 128 KiB
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            return _read(path, csv.reader(handle, delimiter="\t", strict=True))
    except UnicodeDecodeError as error:
        line = _line_of_bad_byte(path)
        raise DataError(f"{path}:{line}: not UTF-8 text ({error.reason}). Save the table as UTF-8.") from error
    finally:
        csv.field_size_limit(before)


def _read(path: Path, reader) -> TsvTable:  # type: ignore[no-untyped-def]  # the csv module does not export its type
    columns: tuple[str, ...] | None = None
    rows = []
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise DataError(
                f"{path}:{start}: a quote in the row that starts on this line is not closed properly (noticed on line "
                f"{reader.line_num}: {error}). Close it, and write a quote inside a quoted cell twice."
            ) from error
        if not cells:  # an empty line
            continue
        if columns is None:
            columns = _header(path, start, cells)
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"{path}:{start}: {len(cells)} cells where the header has {len(columns)}. "
                "Check this row for a lost tab or a quote that is not closed."
            )
        rows.append(TsvRow(start, dict(zip(columns, cells, strict=True))))
    if columns is None:
        raise DataError(f"{path}: the file is empty. A table starts with a row that names its columns.")
    return TsvTable(path, columns, tuple(rows))


def _header(path: Path, line: int, cells: list[str]) -> tuple[str, ...]:
    columns = tuple(cell.strip() for cell in cells)
    for name in columns:
        if columns.count(name) > 1:
            raise DataError(f"{path}:{line}: two columns are named '{name}'. Give each column its own name.")
    return columns


def _line_of_bad_byte(path: Path) -> int:
    data = path.read_bytes()
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return data[: error.start].count(b"\n") + 1
    return 1
