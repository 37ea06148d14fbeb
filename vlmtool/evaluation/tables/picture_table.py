"""Tables of questions with a picture each, in VLMEvalKit's form: what every such benchmark reads and checks alike.

A picture is base64 in the cell, or the index of another row that has it, or a file that `image_path` names. Form of
the files: https://github.com/open-compass/VLMEvalKit, vlmeval/dataset/image_base.py.
"""

import os
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmtool.data.picture_file import open_header
from vlmtool.evaluation.files.pictures import PictureError, decode_picture, open_picture, picture_bytes
from vlmtool.evaluation.files.tsv import TsvRow, TsvTable, read_tsv
from vlmtool.evaluation.tables.picture_reference import as_name, follow_references, is_index
from vlmtool.utils.errors import DataError

ROTATION_STEP = 1_000_000  # MMBench: rotation r of question i has the index i + r * 10^6


@dataclass(frozen=True)
class Row:
    """One question. Empty cells are empty strings.

    Attributes:
        index: the number in the column `index`; where that holds names, the row's number in the file, from 0.
        line: of the file, where the row begins.
        options: letter -> text, in the order of the alphabet; those with a text.
        picture: base64, references followed; empty where the row has none.
        picture_file: where the row has no base64 but an `image_path`.
        name: what the column `index` holds.
    """

    index: int
    line: int
    question: str
    hint: str
    options: dict[str, str]
    answer: str
    category: str
    l2_category: str
    split: str
    picture: str
    picture_file: Path | None = None
    name: str = ""

    @property
    def base(self) -> int:
        """In MMBench's files, index of the question that this row is a rotation of."""
        return self.index % ROTATION_STEP

    @property
    def is_base(self) -> bool:
        """True for the question as it was written, before any rotation."""
        return self.index < ROTATION_STEP


def read_columns(path: Path, columns: Sequence[str], form: str) -> TsvTable:
    """A table that has these columns, and rows.

    Raises:
        DataError: it has not; `form` is a sentence that says how such a file looks.
    """
    if path.is_dir():
        raise DataError(f"{path}: a folder. Give the table (TSV) itself.")
    table = read_tsv(path)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(f"{path}:1: no column {', '.join(missing)}; it has {', '.join(table.columns)[:200]}. {form}")
    if not table.rows:
        raise DataError(f"{path}: the table has a header and no rows. Download the file again.")
    return table


def read_rows(table: TsvTable, may_be_text: bool = True, image_folder: Path | None = None) -> tuple[Row, ...]:
    """The rows in the order of the file; answers are as they stand there.

    Args:
        may_be_text: the column `index`; where it is False, it holds numbers.
        image_folder: what an `image_path` is below; None takes the table's own folder.

    Raises:
        DataError: indices that are missing or stand twice, picture references that lead nowhere or in a circle, an
            empty question. The message names line and column.
    """
    names = _names(table, may_be_text)
    numbers = map(int, names) if is_index(names[0]) else range(len(names))
    pictures = follow_references(table, names)
    folder = table.path.parent if image_folder is None else image_folder
    return tuple(
        _row(table, row, name, number, picture, folder)
        for row, name, number, picture in zip(table.rows, names, numbers, pictures, strict=True)
    )


def option_letters(table: TsvTable) -> tuple[str, ...]:
    """The columns A, B, C …, as many as there are."""
    return tuple(letter for letter in string.ascii_uppercase if letter in table.columns)


def check_pictures(path: Path, rows: Sequence[Row]) -> None:
    """See that every row has a picture that can be read, so that a broken one is found before the model is loaded.

    Raises:
        DataError: a row has no picture or a broken one.
    """
    seen: set[str | Path] = set()
    for row in rows:
        picture = row.picture or row.picture_file or ""
        if picture in seen:
            continue
        try:
            if isinstance(picture, Path):
                _check_file(picture)
            elif not picture:
                raise PictureError("empty")
            else:
                decode_picture(open_picture(picture_bytes(picture)))
        except PictureError as error:
            column, advice = (
                ("image_path", "Name the folder that holds the pictures: --image-folder DIR.")
                if isinstance(picture, Path)
                else ("image", "Put the picture there as base64, or the index of a row that has it.")
            )
            raise DataError(f"{path}:{row.line}: column '{column}' of index {row.name}: {error}. {advice}") from error
        seen.add(picture)


def _check_file(picture: Path) -> None:
    try:
        if not picture.is_file():
            raise PictureError(f"no file {picture}")
        open_header(picture).close()
    except (OSError, ValueError, SyntaxError) as error:
        raise error if isinstance(error, PictureError) else PictureError(f"{picture}: {error}") from error


def _names(table: TsvTable, may_be_text: bool) -> list[str]:
    """All numbers, or all names: a name among numbers is a slip."""
    is_number = not may_be_text or is_index(as_name(table.rows[0].cells["index"]))
    lines: dict[str, int] = {}
    for row in table.rows:
        name = as_name(row.cells["index"])
        if not name or is_index(name) != is_number:
            raise DataError(
                f"{table.path}:{row.line}: column 'index' holds '{name[:40]}'. It must be "
                + ("a whole number of 0 or more." if is_number else "a name: on the rows before, it is.")
            )
        if name in lines:
            raise DataError(
                f"{table.path}:{row.line}: index {name[:40]} stands on line {lines[name]} already. Each row needs "
                "its own in the column 'index'."
            )
        lines[name] = row.line
    return list(lines)


def _row(table: TsvTable, row: TsvRow, name: str, number: int, picture: str, folder: Path) -> Row:
    def cell(column: str) -> str:
        return row.cells.get(column, "")

    if not cell("question").strip():
        raise DataError(
            f"{table.path}:{row.line}: column 'question' of index {name[:40]} is empty. Write the question there."
        )
    options = {letter: cell(letter) for letter in option_letters(table) if cell(letter)}
    return Row(
        number, row.line, cell("question"), cell("hint").strip() and cell("hint"), options,
        cell("answer").strip(), cell("category"), cell("l2-category") or cell("l2_category"), cell("split"), picture,
        None if picture else _file(table, row, cell("image_path").strip(), folder), name,
    )  # fmt: skip


def _file(table: TsvTable, row: TsvRow, name: str, folder: Path) -> Path | None:
    if not name:
        return None
    if os.path.isabs(name) or ".." in Path(os.path.normpath(name)).parts:
        raise DataError(
            f"{table.path}:{row.line}: column 'image_path' holds '{name[:80]}', which leads out of '{folder}'. "
            "Write it as it is below the folder of --image-folder."
        )
    return folder / name
