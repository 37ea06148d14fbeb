"""Which benchmark a table in VLMEvalKit's form belongs to, told by its columns and answers."""

from functools import lru_cache
from pathlib import Path

from vlmtool.evaluation.files.tsv import read_tsv
from vlmtool.evaluation.tables.choice_table import as_yes_no, first_rotation
from vlmtool.evaluation.tables.picture_table import option_letters, read_rows
from vlmtool.utils.errors import DataError

ROTATED, CHOICES, YES_OR_NO = "rotated", "choices", "yes or no"


def table_kind(path: Path) -> str | None:
    """What kind of questions a table holds; None where that is not certain.

    A table with the columns of choices whose rows are broken counts as one: opening it tells what is wrong.
    """
    facts = path.stat()
    return _kind(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1)  # several benchmarks ask in turn, and a table may have a gigabyte
def _kind(path: Path, size: int, changed: int) -> str | None:
    try:
        table = read_tsv(path)
        columns = set(table.columns)
        if not table.rows or not {"index", "question"} <= columns or not columns & {"image", "image_path"}:
            return None
    except DataError:
        return None
    try:
        rows = read_rows(table)
    except DataError:
        return CHOICES if {"A", "B"} <= columns else None
    answers = {row.answer for row in rows} - {""}
    if answers and all(as_yes_no(answer) for answer in answers):
        return YES_OR_NO
    if not {"A", "B"} <= columns or not answers <= set(option_letters(table)):
        return None
    return CHOICES if first_rotation(rows) is None else ROTATED
