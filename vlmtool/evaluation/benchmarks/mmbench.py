"""MMBench (DEV, TEST, EN, CN, V1.1, CCBench): multiple choice about a picture, scored by CircularEval.

A question counts only if the model is right under every rotation of its options. Source: https://arxiv.org/abs/2307.06281.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.data.conversation import Image, Message, user
from vlmtool.evaluation.benchmark import Card, CardLine, Options, Sample, Scores
from vlmtool.evaluation.benchmarks.mmbench_table import Row, check_pictures, read_mmbench
from vlmtool.evaluation.extract import find_extractor
from vlmtool.evaluation.pictures import PictureError, open_picture, picture_bytes
from vlmtool.evaluation.predictions import row_index
from vlmtool.evaluation.xlsx import write_xlsx

ABILITIES = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}
LETTER_ENGLISH = "Answer with the option's letter from the given choices directly."
LETTER_CHINESE = "请直接回答选项字母。"
_CHINESE = re.compile("[\u4e00-\u9fff]")

Judged = Sequence[tuple[Row, int]]  # rows with 1 for right, 0 for wrong


class MMBench:
    """One MMBench file.

    Args:
        data_path: the official TSV, or any other in its form.
    """

    name: ClassVar[str] = "mmbench"
    places: ClassVar[tuple[str, ...]] = (
        "mmbench/*.tsv",
        "MMBench/*.tsv",
        "mmbench*.tsv",
        "MMBench*.tsv",
        "CCBench*.tsv",
    )
    scale: ClassVar[float] = 100
    answer_fields: ClassVar[tuple[str, ...]] = ("prediction",)

    def __init__(self, data_path: Path, options: Options | None = None) -> None:
        options = options or Options()
        self.data_path = data_path
        self.extractor = options.extractor or "vlmeval"
        self._extract = find_extractor(self.extractor)
        self._table = read_mmbench(data_path)
        if options.needs_pictures:
            check_pictures(self._table)
        self._rows = {row.index: row for row in self._table.rows}
        self._open = lru_cache(maxsize=64)(lambda cell: open_picture(picture_bytes(cell)))  # rotations share one

    @property
    def rows(self) -> list[Row]:
        """Every rotation of every question, as the file has it."""
        return list(self._rows.values())

    def samples(self) -> list[Sample]:
        """Every rotation of every question."""
        digest = lru_cache(maxsize=None)(lambda cell: hashlib.sha256(cell.encode()).hexdigest())
        return [
            Sample(
                row.index,
                row.base,
                hashlib.sha256(json.dumps([question_text(row), digest(row.picture)]).encode()).hexdigest(),
            )
            for row in self._rows.values()
        ]

    def prompt(self, sample: Sample) -> tuple[Message, ...]:
        """The picture, a line break and the question, as LLaVA and XTuner ask it."""
        row = self._rows[sample.index]
        return (user(Image(self._open(row.picture)), "\n" + question_text(row)),)

    def index_of(self, entry: Mapping[str, Any]) -> int | None:
        """By its index."""
        index = row_index(entry)
        return index if index in self._rows else None

    def score(self, predictions: Mapping[int, str]) -> Scores:
        """CircularEval and both vanilla scores, overall, by ability (l2-category) and by category."""
        rows = list(self._rows.values())
        extracted = {row.index: self._letter(row, predictions) for row in rows}
        hits = {row.index: int(extracted[row.index] == row.answer) for row in rows if row.answer}
        circular = _circular_hits(rows, hits)
        unreadable = sum(letter is None for index, letter in extracted.items() if index in predictions)
        counts = self._table.counts | {
            "questions_scored": len(circular),
            "answers_unreadable": unreadable,
        }
        scores = _all_scores(rows, hits, circular)
        splits = sorted({row.split for row in rows if row.index in hits and row.split})
        return Scores(
            scores=scores,
            counts=counts,
            rows=[
                {
                    "index": row.index,
                    "extracted": extracted[row.index],
                    "hit": hits.get(row.index),
                    "circular_hit": circular.get(row.base),
                }
                for row in rows
            ],
            warnings=self._table.warnings,
            headline=("CircularEval", self.scale * scores["circular"].get("Overall", 0.0)) if scores else None,
            splits={
                name: _all_scores([row for row in rows if row.split == name], hits, circular) for name in splits
            } if len(splits) > 1 else {},
        )  # fmt: skip

    def _letter(self, row: Row, predictions: Mapping[int, str]) -> str | None:
        return self._extract(predictions[row.index], row.options) if row.index in predictions else None

    def cards(self, predictions: Mapping[int, str], scores: Scores) -> list[Card]:
        """One card per question, its rotations as lines."""
        result = {entry["index"]: entry for entry in scores.rows}
        groups: dict[int, list[Row]] = defaultdict(list)
        for row in self._rows.values():
            groups[row.base].append(row)
        return [self._card(base, rows, predictions, result) for base, rows in groups.items()]

    def _card(
        self, base: int, rows: Sequence[Row], predictions: Mapping[int, str], result: Mapping[int, Mapping]
    ) -> Card:
        first = rows[0]
        lines = [
            CardLine(
                row.index,
                question_text(row, with_suffix=False),
                row.answer,
                predictions.get(row.index, ""),
                result[row.index]["extracted"] or "",
                None if result[row.index]["hit"] is None else bool(result[row.index]["hit"]),
            )
            for row in rows
        ]
        right = result[first.index]["circular_hit"]
        try:
            picture = picture_bytes(first.picture) if first.picture else None
        except PictureError:  # scoring given predictions does without pictures
            picture = None
        return Card(str(base), first.category, picture, lines, None if right is None else bool(right))

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """`mmbench_result.xlsx` for the official server: every rotation, the raw answers, an empty answer column."""
        letters = sorted({*"ABCD", *self._table.option_letters})
        header = ["index", "question", *letters, "prediction", "category", "l2-category", "answer"]
        path = folder / "mmbench_result.xlsx"
        write_xlsx(path, header, (
            [
                row.index, row.question, *(row.options.get(letter, "") for letter in letters),
                predictions.get(row.index, ""), row.category, row.l2_category, "",
            ]
            for row in self._rows.values()
        ))  # fmt: skip
        return path


def question_text(row: Row, with_suffix: bool = True) -> str:
    """Hint, question and options as the model reads them; the suffix, in the text's language, asks for a letter."""
    lines = [row.hint] if row.hint else []
    text = "\n".join([*lines, row.question, *(f"{letter}. {option}" for letter, option in row.options.items())])
    if not with_suffix:
        return text
    return text + "\n" + (LETTER_CHINESE if _CHINESE.search(text) else LETTER_ENGLISH)


def _circular_hits(rows: Sequence[Row], hits: Mapping[int, int]) -> dict[int, int]:
    """By question: 1 if every rotation in the file is right. Only questions with a base row and all rows judged."""
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.base].append(row)
    return {
        base: int(all(hits[row.index] for row in group))
        for base, group in groups.items()
        if any(row.is_base for row in group) and all(row.index in hits for row in group)
    }


def _all_scores(
    rows: Sequence[Row], hits: Mapping[int, int], circular: Mapping[int, int]
) -> dict[str, dict[str, float]]:
    """The three scores; empty where no row has an answer."""
    judged = [(row, hits[row.index]) for row in rows if row.index in hits]
    if not judged:
        return {}
    first = [(row, hit) for row, hit in judged if row.is_base]
    return {
        "circular": _by_group([(row, circular[row.base]) for row, _ in first if row.base in circular]),
        "vanilla_first": _by_group(first),
        "vanilla_all": _by_group(judged),
    }


def _by_group(judged: Judged) -> dict[str, float]:
    """Share of right rows: Overall, then by ability, then by category. Rows without a name count in Overall only."""
    scores = {"Overall": _mean(hit for _, hit in judged)} if judged else {}
    for name in (_ability, _category):
        scores |= _shares(judged, name)
    return scores


def _shares(judged: Judged, name: Callable[[Row], str]) -> dict[str, float]:
    groups: dict[str, list[int]] = defaultdict(list)
    for row, hit in judged:
        if name(row):
            groups[name(row)].append(hit)
    return {key: _mean(groups[key]) for key in sorted(groups)}


def _ability(row: Row) -> str:
    return ABILITIES.get(row.l2_category, row.l2_category)


def _category(row: Row) -> str:
    return row.category


def _mean(values: Iterable[int]) -> float:
    values = list(values)
    return sum(values) / len(values)
