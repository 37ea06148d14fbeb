"""Any table of multiple-choice questions in VLMEvalKit's form: SEED-Bench, AI2D, MMStar, RealWorldQA, ScienceQA, …

Columns: index, question, A, B … (any letters), answer, image or image_path; hint, category, l2-category and split may
be absent. Source: https://github.com/open-compass/VLMEvalKit, vlmeval/dataset/image_mcq.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.evaluation.tables.choice_benchmark import ChoiceBenchmark
from vlmtool.evaluation.tables.choice_table import check_options, first_rotation, read_choice_columns
from vlmtool.evaluation.tables.picture_table import Row, option_letters, read_rows
from vlmtool.evaluation.tables.shares import Extracted, hit_of, shares
from vlmtool.evaluation.tables.table_kind import CHOICES
from vlmtool.utils.errors import DataError


class MultipleChoice(ChoiceBenchmark):
    """One such table. Every row is one question; a table of rotations belongs to `mmbench`."""

    name: ClassVar[str] = "multiple_choice"
    places: ClassVar[tuple[str, ...]] = (
        "multiple_choice/*.tsv",
        "SEEDBench*.tsv",
        "AI2D*.tsv",
        "MMStar*.tsv",
        "RealWorldQA*.tsv",
        "ScienceQA*.tsv",
    )
    kind: ClassVar[str] = CHOICES

    def read(self, data_path: Path, image_folder: Path | None) -> Sequence[Row]:
        """Every question."""
        table = read_choice_columns(
            data_path, "A file of multiple-choice questions is tab-separated and starts with index, question, A, B …"
        )
        rows = read_rows(table, image_folder=image_folder)
        check_options(data_path, rows, option_letters(table))
        rotation = first_rotation(rows)
        if rotation is not None:
            raise DataError(
                f"{data_path}:{rotation.line}: index {rotation.name} is a rotation of another row, as in MMBench's "
                "files, which count a question once. Use: vlmtool mmbench --data-path …"
            )
        return rows

    def total(self, rows: Sequence[Row], extracted: Extracted) -> dict[str, Any]:
        """Accuracy: overall, by l2-category and by category."""
        judged = [(row, hit) for row in rows if (hit := hit_of(row, extracted)) is not None]
        return shares(judged, {"l2-category": lambda row: row.l2_category, "category": lambda row: row.category})

    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """Accuracy in percent."""
        return "accuracy", self.scale * scores["Overall"]
