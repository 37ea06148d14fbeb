"""MMBench (DEV, TEST, EN, CN, V1.1, CCBench): multiple choice about a picture, scored by CircularEval.

A question counts only if the model is right under every rotation of its options. Source: https://arxiv.org/abs/2307.06281.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.evaluation.benchmark import Card, Scores
from vlmtool.evaluation.benchmarks.mmbench_table import read_mmbench
from vlmtool.evaluation.tables.choice_benchmark import ChoiceBenchmark
from vlmtool.evaluation.tables.choice_table import LETTER_CHINESE, LETTER_ENGLISH, question_text
from vlmtool.evaluation.tables.picture_table import Row
from vlmtool.evaluation.tables.shares import Extracted, hit_of, shares
from vlmtool.evaluation.tables.table_cards import as_card
from vlmtool.evaluation.tables.table_kind import ROTATED

__all__ = ["ABILITIES", "LETTER_CHINESE", "LETTER_ENGLISH", "MMBench", "question_text"]

ABILITIES = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}


class MMBench(ChoiceBenchmark):
    """One MMBench file: the official TSV, or any other in its form."""

    name: ClassVar[str] = "mmbench"
    places: ClassVar[tuple[str, ...]] = (
        "mmbench/*.tsv",
        "MMBench/*.tsv",
        "mmbench*.tsv",
        "MMBench*.tsv",
        "CCBench*.tsv",
    )
    submitted_letters: ClassVar[str] = "ABCD"
    kind: ClassVar[str] = ROTATED

    def read(self, data_path: Path, image_folder: Path | None) -> Sequence[Row]:
        """Every rotation of every question, as the file has it."""
        self._table = read_mmbench(data_path, image_folder)
        return self._table.rows

    def group(self, row: Row, same_picture: int) -> int:
        """The rotations of one question."""
        return row.base

    def total(self, rows: Sequence[Row], extracted: Extracted) -> dict[str, Any]:
        """CircularEval and both vanilla scores, overall, by ability (l2-category) and by category."""
        judged = [(row, hit) for row in rows if (hit := hit_of(row, extracted)) is not None]
        if not judged:
            return {}
        circular = _circular_hits(rows, extracted)
        first = [(row, hit) for row, hit in judged if row.is_base]
        ways = {
            "circular": [(row, circular[row.index]) for row, _ in first if row.index in circular],
            "vanilla_first": first,
            "vanilla_all": judged,
        }
        kinds = {"l2-category": _ability, "category": _category}
        return {way: shares(right, kinds) for way, right in ways.items()}

    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """CircularEval's share in percent."""
        return "CircularEval", self.scale * scores["circular"].get("Overall", 0.0)

    def counts(self, extracted: Extracted) -> dict[str, int]:
        """Rows and questions: each is scored, or counted for what it lacks."""
        circular = _circular_hits(self.rows, extracted)
        counts = self._table.counts
        return counts | super().counts(extracted) | {
            "questions_scored": len(circular),
            "questions_with_unanswered_rows": counts["questions"] - len(circular),
        }  # fmt: skip

    def warnings(self) -> list[str]:
        """What of the rotations is missing."""
        return list(self._table.warnings)

    def row_entries(self, extracted: Extracted) -> list[dict[str, Any]]:
        """With the result of the row's question."""
        circular = _circular_hits(self.rows, extracted)
        entries = super().row_entries(extracted)
        return [entry | {"circular_hit": circular.get(row.base)} for row, entry in zip(self.rows, entries, strict=True)]

    def cards(self, predictions: Mapping[int, str], scores: Scores) -> list[Card]:
        """One card per question, its rotations as lines."""
        groups: dict[int, list[tuple[Row, Mapping[str, Any]]]] = defaultdict(list)
        for row, entry in zip(self.rows, scores.rows, strict=True):
            groups[row.base].append((row, entry))
        return [
            as_card(str(base), rows, predictions, rows[0][1]["circular_hit"], self.shown_text)
            for base, rows in groups.items()
        ]


def _circular_hits(rows: Sequence[Row], extracted: Extracted) -> dict[int, int]:
    """By question: 1 if every rotation in the file is right. Only questions with a base row and all rows judged."""
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.base].append(row)
    return {
        base: int(all(hit_of(row, extracted) for row in group))
        for base, group in groups.items()
        if any(row.is_base for row in group) and all(row.answer for row in group)
    }


def _ability(row: Row) -> str:
    return ABILITIES.get(row.l2_category, row.l2_category)


def _category(row: Row) -> str:
    return row.category
