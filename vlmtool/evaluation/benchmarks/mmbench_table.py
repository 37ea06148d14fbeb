"""MMBench's table: rows already expanded for CircularEval, rotations that refer to their base row for the picture."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlmtool.evaluation.benchmark import name_some
from vlmtool.evaluation.tables.choice_table import check_options, read_choice_columns
from vlmtool.evaluation.tables.picture_table import Row, option_letters, read_rows
from vlmtool.utils.checklist import counted


@dataclass(frozen=True)
class MMBenchTable:
    """The rows in the order of the file, and what a person should know about them."""

    path: Path
    rows: tuple[Row, ...]
    counts: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read_mmbench(path: Path, image_folder: Path | None = None) -> MMBenchTable:
    """Read and check a MMBench file.

    Raises:
        DataError: the table is broken: missing columns, duplicate or odd indices, fewer than two options, picture
            references that lead nowhere or in a circle. The message names line and column.
    """
    table = read_choice_columns(
        path, "A MMBench file is tab-separated and starts with index, question, hint, A, B, C, D …"
    )
    rows = read_rows(table, may_be_text=False, image_folder=image_folder)
    check_options(path, rows, option_letters(table))
    counts, warnings = _survey(rows)
    return MMBenchTable(path, rows, counts, warnings)


def _survey(rows: Sequence[Row]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Count what CircularEval relies on and the file may lack; nothing of it is passed over in silence."""
    sizes = Counter(row.base for row in rows)
    with_base = {row.base for row in rows if row.is_base}
    expected = {row.base: len(row.options) for row in reversed(rows)}
    without_base = [base for base in sizes if base not in with_base]
    short = [base for base, size in sizes.items() if base in with_base and size < expected[base]]
    extra = [base for base, size in sizes.items() if size > expected[base]]
    unanswered = [row.index for row in rows if not row.answer]
    counts = {
        "rows": len(rows),
        "questions": len(with_base),
        "questions_without_base_row": len(without_base),
        "questions_with_missing_rotations": len(short),
        "questions_with_too_many_rotations": len(extra),
        "rows_without_answer": len(unanswered),
    }
    warnings = []
    if len(with_base) == len(rows) > 1:
        warnings.append(
            "no question is rotated, so CircularEval is plain accuracy here; for files other than MMBench's there is "
            "`vlmtool eval multiple_choice`"
        )
    if without_base:
        warnings.append(
            f"{counted(len(without_base), 'question')} with rotations but no base row, counted in vanilla_all only: "
            f"{name_some(without_base)}"
        )
    if short:
        warnings.append(f"{counted(len(short), 'question')} with fewer rotations than options: {name_some(short)}")
    if extra:
        warnings.append(f"{counted(len(extra), 'question')} with more rotations than options: {name_some(extra)}")
    if unanswered and len(unanswered) < len(rows):
        warnings.append(f"{counted(len(unanswered), 'row')} without an answer, not scored: {name_some(unanswered)}")
    return counts, tuple(warnings)
