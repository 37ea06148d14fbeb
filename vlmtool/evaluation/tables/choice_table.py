"""What tables of multiple-choice questions have in common, and how they differ from one another."""

import re
from collections.abc import Sequence
from pathlib import Path

from vlmtool.evaluation.files.tsv import TsvTable
from vlmtool.evaluation.tables.picture_table import Row, read_columns
from vlmtool.utils.errors import DataError

LETTER_ENGLISH = "Answer with the option's letter from the given choices directly."
LETTER_CHINESE = "请直接回答选项字母。"
YES_NO = ("Yes", "No")
_CHINESE = re.compile("[\u4e00-\u9fff]")


def question_text(row: Row, with_suffix: bool = True) -> str:
    """Hint, question and options as the model reads them; the suffix, in the text's language, asks for a letter."""
    lines = [row.hint] if row.hint else []
    text = "\n".join([*lines, row.question, *(f"{letter}. {option}" for letter, option in row.options.items())])
    if not with_suffix:
        return text
    return text + "\n" + (LETTER_CHINESE if _CHINESE.search(text) else LETTER_ENGLISH)


def read_choice_columns(path: Path, form: str) -> TsvTable:
    """A table with options.

    Raises:
        DataError: it has none, or no rows; one of yes/no questions is told to belong to `yes_no`.
    """
    try:
        return read_columns(path, ("index", "question", "A", "B"), form)
    except DataError as error:
        if has_yes_no_answers(path):
            raise DataError(f"{path}: its answers are Yes and No. Use: vlmtool eval yes_no --data-path …") from error
        raise


def check_options(path: Path, rows: Sequence[Row], letters: Sequence[str]) -> None:
    """See that every row can be asked and judged.

    Raises:
        DataError: fewer than two options, or an answer that is none of them; the message names line and column.
    """
    for row in rows:
        if len(row.options) < 2:
            raise DataError(
                f"{path}:{row.line}: index {row.name[:40]} has {len(row.options)} option(s) in the columns "
                f"{', '.join(letters)}. A question needs at least two."
            )
        if row.answer and row.answer not in row.options:
            raise DataError(
                f"{path}:{row.line}: column 'answer' of index {row.name[:40]} holds '{row.answer[:40]}', but its "
                f"options are {', '.join(row.options)}. It must be one of these letters."
            )


def first_rotation(rows: Sequence[Row]) -> Row | None:
    """The first row that is a rotation of another: the same question with the same options in another order."""
    by_index = {row.index: row for row in rows}
    return next((row for row in rows if _is_rotation(row, by_index.get(row.base))), None)


def _is_rotation(row: Row, base: Row | None) -> bool:
    return (
        base is not None
        and (base.index, base.question) == (row.base, row.question)
        and row.options != base.options
        and sorted(row.options.values()) == sorted(base.options.values())
    )


def as_yes_no(answer: str) -> str | None:
    """ "Yes" or "No", however it is written; None for anything else."""
    return next((word for word in YES_NO if answer.strip().lower() == word.lower()), None)


def has_yes_no_answers(path: Path) -> bool:
    """Whether the answers of a table are Yes and No."""
    table = read_columns(path, (), "")
    answers = {row.cells.get("answer", "").strip() for row in table.rows} - {""}
    return bool(answers) and all(as_yes_no(answer) for answer in answers)
