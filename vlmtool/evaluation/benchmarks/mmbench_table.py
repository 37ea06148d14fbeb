"""MMBench's table: rows already expanded for CircularEval, rotations that refer to their base row for the picture."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlmtool.evaluation.benchmark import name_some
from vlmtool.evaluation.pictures import PictureError, decode_picture, open_picture, picture_bytes
from vlmtool.evaluation.tsv import TsvRow, TsvTable, read_tsv
from vlmtool.utils.errors import DataError

ROTATION_STEP = 1_000_000  # rotation r of question i has the index i + r * 10^6
_NUMBER = re.compile(r"[0-9]{1,18}(?:\.0+)?")  # ".0": another tool took the column for numbers


@dataclass(frozen=True)
class Row:
    """One rotation of one question. Empty cells are empty strings; `answer` is empty where the data has none."""

    index: int
    line: int
    question: str
    hint: str
    options: dict[str, str]  # letter -> text, in the order of the alphabet
    answer: str
    category: str
    l2_category: str
    split: str
    picture: str  # base64, references followed; empty where the row has none

    @property
    def base(self) -> int:
        """Index of the question that this row is a rotation of."""
        return self.index % ROTATION_STEP

    @property
    def is_base(self) -> bool:
        """True for the question as it was written, before any rotation."""
        return self.index < ROTATION_STEP


@dataclass(frozen=True)
class MMBenchTable:
    """The rows in the order of the file, and what a person should know about them."""

    path: Path
    rows: tuple[Row, ...]
    option_letters: tuple[str, ...]
    counts: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read_mmbench(path: Path) -> MMBenchTable:
    """Read and check a MMBench file.

    Raises:
        DataError: the table is broken: missing columns, duplicate or odd indices, fewer than two options, picture
            references that lead nowhere or in a circle. The message names line and column.
    """
    table = read_tsv(path)
    missing = [name for name in ("index", "question", "A", "B") if name not in table.columns]
    if missing:
        raise DataError(
            f"{path}:1: no column {', '.join(missing)}; it has {', '.join(table.columns)[:200]}. "
            "A MMBench file is tab-separated and starts with index, question, hint, A, B, C, D …"
        )
    if not table.rows:
        raise DataError(f"{path}: the table has a header and no rows. Download the file again.")
    indices = _indices(table)
    cells = _follow_references(table, indices)
    letters = tuple(letter for letter in string.ascii_uppercase if letter in table.columns)
    rows = tuple(
        _row(path, row, index, letters, cell) for row, index, cell in zip(table.rows, indices, cells, strict=True)
    )
    counts, warnings = _survey(rows)
    return MMBenchTable(path, rows, letters, counts, warnings)


def check_pictures(table: MMBenchTable) -> None:
    """Decode every picture once, so that a broken one is found before the model is loaded.

    Raises:
        DataError: a row has no picture or a broken one.
    """
    seen: set[str] = set()
    for row in table.rows:
        if row.picture in seen:
            continue
        try:
            if not row.picture:
                raise PictureError("empty")
            decode_picture(open_picture(picture_bytes(row.picture)))
        except PictureError as error:
            raise DataError(
                f"{table.path}:{row.line}: column 'image' of index {row.index}: {error}. "
                "Put the picture there as base64, or the index of a row that has it."
            ) from error
        seen.add(row.picture)


def _indices(table: TsvTable) -> list[int]:
    lines: dict[int, int] = {}
    for row in table.rows:
        text = row.cells["index"].strip()
        if not _NUMBER.fullmatch(text):
            raise DataError(
                f"{table.path}:{row.line}: column 'index' holds '{text[:40]}'. It must be a whole number of 0 or more."
            )
        index = int(text.split(".")[0])
        if index in lines:
            raise DataError(
                f"{table.path}:{row.line}: index {index} stands on line {lines[index]} already. Each row needs its own."
            )
        lines[index] = row.line
    return list(lines)


def _follow_references(table: TsvTable, indices: Sequence[int]) -> list[str]:
    """Each row's base64 cell; a cell that holds a number refers to the row with that index, any number of times."""
    by_index = dict(zip(indices, table.rows, strict=True))
    found: dict[int, str] = {}
    for index, row in by_index.items():
        found |= _follow(table.path, row, index, by_index, found)
    return [found[index] for index in indices]


def _follow(path: Path, row: TsvRow, index: int, by_index: dict[int, TsvRow], found: dict[int, str]) -> dict[int, str]:
    """The cell at the end, for each index on the way there; it ends early at one of `found`."""
    seen = {index: row}
    cell = row.cells.get("image", "").strip()
    while _NUMBER.fullmatch(cell):
        target = int(cell.split(".")[0])
        if target in found:
            cell = found[target]
            break
        if target in seen:
            raise DataError(
                f"{path}:{row.line}: column 'image' of index {index} refers in a circle: "
                f"{' → '.join(map(str, [*seen, target][:8]))}. One of these rows must hold the picture as base64."
            )
        if target not in by_index:
            raise DataError(
                f"{path}:{row.line}: column 'image' of index {index} refers to index {target}, which the file does not "
                "have. Add that row, or put the picture itself into the cell as base64."
            )
        seen[target] = by_index[target]
        cell = seen[target].cells.get("image", "").strip()
    return dict.fromkeys(seen, cell)


def _row(path: Path, row: TsvRow, index: int, letters: Sequence[str], picture: str) -> Row:
    def cell(name: str) -> str:
        return row.cells.get(name, "")

    options = {letter: cell(letter) for letter in letters if cell(letter)}
    if len(options) < 2:
        raise DataError(
            f"{path}:{row.line}: index {index} has {len(options)} option(s) in the columns {', '.join(letters)}. "
            "A question needs at least two."
        )
    if not cell("question").strip():
        raise DataError(f"{path}:{row.line}: column 'question' of index {index} is empty. Write the question there.")
    answer = cell("answer").strip()
    if answer and answer not in options:
        raise DataError(
            f"{path}:{row.line}: column 'answer' of index {index} holds '{answer[:40]}', but its options are "
            f"{', '.join(options)}. It must be one of these letters."
        )
    return Row(
        index, row.line, cell("question"), cell("hint").strip() and cell("hint"), options, answer,
        cell("category"), cell("l2-category"), cell("split"), picture,
    )  # fmt: skip


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
    if without_base:
        warnings.append(
            f"{len(without_base)} questions have rotations but no base row and count in vanilla_all only: "
            f"{name_some(without_base)}"
        )
    if short:
        warnings.append(f"{len(short)} questions have fewer rotations than options: {name_some(short)}")
    if extra:
        warnings.append(f"{len(extra)} questions have more rotations than options: {name_some(extra)}")
    if unanswered and len(unanswered) < len(rows):
        warnings.append(f"{len(unanswered)} rows have no answer and are not scored: {name_some(unanswered)}")
    return counts, tuple(warnings)
