"""Rows of a table as the HTML page shows them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmtool.evaluation.benchmark import Card, CardLine
from vlmtool.evaluation.files.pictures import PictureError, picture_bytes
from vlmtool.evaluation.tables.picture_table import Row

Entry = Mapping[str, Any]  # of `rows.jsonl`


def as_card(
    title: str,
    rows: Sequence[tuple[Row, Entry]],
    predictions: Mapping[int, str],
    right: int | None,
    text: Callable[[Row], str],
) -> Card:
    """One question, each of its rows a line; `right` is 1, 0, or None where the data has no answer."""
    first = rows[0][0]
    lines = [
        CardLine(
            row.index, text(row), row.answer, predictions.get(row.index, ""),
            entry["extracted"] or "", None if entry["hit"] is None else bool(entry["hit"]),
        )
        for row, entry in rows
    ]  # fmt: skip
    return Card(title, first.category, _picture(first), lines, None if right is None else bool(right))


def _picture(row: Row) -> Path | bytes | None:
    try:
        return row.picture_file or (picture_bytes(row.picture) if row.picture else None)
    except PictureError:  # scoring given predictions does without pictures
        return None
