"""Cells that hold no picture but say which row has it."""

import re
from collections.abc import Sequence
from pathlib import Path

from vlmtool.evaluation.files.tsv import TsvRow, TsvTable
from vlmtool.utils.errors import DataError

_NUMBER = re.compile(r"[0-9]{1,18}(?:\.0+)?")  # ".0": another tool took the column for numbers


def is_index(cell: str) -> bool:
    """Whether it is a whole number of 0 or more."""
    return _NUMBER.fullmatch(cell) is not None


def as_name(cell: str) -> str:
    """What tells a row from others: "3.0" and "03" are 3."""
    text = cell.strip()
    return str(int(text.split(".")[0])) if is_index(text) else text


def follow_references(table: TsvTable, names: Sequence[str]) -> list[str]:
    """Each row's base64 cell; a cell that holds an index refers to the row with that index, any number of times."""
    by_name = dict(zip(names, table.rows, strict=True))
    found: dict[str, str] = {}
    for name, row in by_name.items():
        found |= _follow(table.path, row, name, by_name, found)
    return [found[name] for name in names]


def _follow(path: Path, row: TsvRow, name: str, by_name: dict[str, TsvRow], found: dict[str, str]) -> dict[str, str]:
    """The cell at the end, for each row on the way there; it ends early at one of `found`."""
    seen = {name: row}
    cell = row.cells.get("image", "").strip()
    while is_index(cell) or cell in by_name:
        target = as_name(cell)
        if target in found:
            cell = found[target]
            break
        if target in seen:
            raise DataError(
                f"{path}:{row.line}: column 'image' of index {name[:40]} refers in a circle: "
                f"{' → '.join([*seen, target][:8])}. One of these rows must hold the picture as base64."
            )
        if target not in by_name:
            raise DataError(
                f"{path}:{row.line}: column 'image' of index {name[:40]} refers to index {target}, which the file does "
                "not have. Add that row, or put the picture itself into the cell as base64."
            )
        seen[target] = by_name[target]
        cell = seen[target].cells.get("image", "").strip()
    return dict.fromkeys(seen, cell)
