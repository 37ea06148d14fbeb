"""Any table of yes/no questions in VLMEvalKit's form: HallusionBench, and POPE, MME or AMBER as that tool packs them.

Columns: index, question, answer (Yes or No), image or image_path; hint, category and split may be absent. Source:
https://github.com/open-compass/VLMEvalKit, vlmeval/dataset/image_yorn.py. HallusionBench's aAcc is the accuracy here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.evaluation.benchmark import Sample
from vlmtool.evaluation.questions import SHORT
from vlmtool.evaluation.reading.extract import YES_NO_RULE, Extractor, yes_no_words
from vlmtool.evaluation.tables.choice_table import YES_NO, as_yes_no, first_rotation
from vlmtool.evaluation.tables.picture_table import Row, read_columns, read_rows
from vlmtool.evaluation.tables.shares import Extracted, mean
from vlmtool.evaluation.tables.table_benchmark import TableBenchmark
from vlmtool.evaluation.tables.table_kind import YES_OR_NO
from vlmtool.utils.errors import DataError


class YesNo(TableBenchmark):
    """One such table."""

    name: ClassVar[str] = "yes_no"
    places: ClassVar[tuple[str, ...]] = ("yes_no/*.tsv", "HallusionBench*.tsv")
    rules: ClassVar[Mapping[str, Extractor]] = {"vlmeval": yes_no_words}
    rules_in_words: ClassVar[Mapping[str, str]] = {"vlmeval": YES_NO_RULE}
    kind: ClassVar[str] = YES_OR_NO

    def read(self, data_path: Path, image_folder: Path | None) -> Sequence[Row]:
        """Every question, its answer as Yes or No."""
        table = read_columns(
            data_path,
            ("index", "question"),
            "A file of yes/no questions is tab-separated and starts with index, question, answer …",
        )
        rows = read_rows(table, image_folder=image_folder)
        for row in rows:
            if row.answer and as_yes_no(row.answer) is None:
                raise DataError(
                    f"{data_path}:{row.line}: column 'answer' of index {row.name[:40]} holds '{row.answer[:40]}'. "
                    + _advice(rows, row)
                )
        return [replace(row, answer=as_yes_no(row.answer) or "") for row in rows]

    def text(self, row: Row) -> str:
        """Hint and question, and the request for a word."""
        return (f"{row.hint}\n" if row.hint else "") + row.question + SHORT

    def choices(self, sample: Sample) -> tuple[str, ...]:
        """Yes and No."""
        return YES_NO

    def total(self, rows: Sequence[Row], extracted: Extracted) -> dict[str, Any]:
        """For all and for each category: accuracy, precision, recall and F1 of Yes, and the share of Yes answers."""
        judged = [row for row in rows if row.answer]
        if not judged:
            return {}
        scores = {"Overall": _measures(judged, extracted)}
        for name in sorted({row.category for row in judged} - {""}):
            shown = f"{name} (category)" if name in scores else name
            scores[shown] = _measures([row for row in judged if row.category == name], extracted)
        return scores

    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """Accuracy in percent."""
        return "accuracy", self.scale * scores["Overall"]["accuracy"]


def _measures(rows: Sequence[Row], extracted: Extracted) -> dict[str, float]:
    """Fractions of 1; a share of nothing is 0. An answer that says neither is wrong, and no Yes."""
    pairs = [(row.answer == "Yes", extracted[row.index] == "Yes") for row in rows]
    hits = sum(is_yes and said_yes for is_yes, said_yes in pairs)
    said, true = sum(said_yes for _, said_yes in pairs), sum(is_yes for is_yes, _ in pairs)
    precision, recall = hits / said if said else 0.0, hits / true if true else 0.0
    return {
        "accuracy": mean([extracted[row.index] == row.answer for row in rows]),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes_ratio": said / len(rows),
    }


def _advice(rows: Sequence[Row], row: Row) -> str:
    if row.answer not in row.options:
        return "It must be Yes or No."
    command = "multiple_choice" if first_rotation(rows) is None else "mmbench"
    return f"Its questions have options. Use: vlmtool eval {command} --data-path …"
