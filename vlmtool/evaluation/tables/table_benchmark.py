"""Benchmarks that are one table of questions with pictures: all but what is asked and what the answers are worth."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.data.conversation import Image, Message, user
from vlmtool.evaluation.benchmark import Card, Options, Sample, Scores, name_some
from vlmtool.evaluation.files.pictures import open_picture, picture_bytes
from vlmtool.evaluation.files.predictions import row_index
from vlmtool.evaluation.files.xlsx import write_xlsx
from vlmtool.evaluation.reading.extract import EXTRACTORS, Extractor, choose_reading
from vlmtool.evaluation.tables.picture_reference import as_name, is_index
from vlmtool.evaluation.tables.picture_table import Row, check_pictures
from vlmtool.evaluation.tables.shares import Extracted, hit_of
from vlmtool.evaluation.tables.table_cards import as_card
from vlmtool.evaluation.tables.table_kind import table_kind
from vlmtool.utils.checklist import counted


class TableBenchmark(ABC):
    """Base of these benchmarks.

    Raises:
        UsageError: no such extractor. DataError: the table is broken, or pictures are.
    """

    name: ClassVar[str]
    places: ClassVar[tuple[str, ...]] = ()
    scale: ClassVar[float] = 100
    max_new_tokens: ClassVar[int] = 100
    answer_fields: ClassVar[tuple[str, ...]] = ("prediction", "text")
    rules: ClassVar[Mapping[str, Extractor]] = EXTRACTORS
    """How answers may be read, the usual way first."""
    submitted_letters: ClassVar[str] = ""
    """Options that the submission has a column for, whether the table has them or not."""
    kind: ClassVar[str]
    """Of `table_kind`: tables of this kind are taken whatever they are called."""
    rules_in_words: ClassVar[Mapping[str, str]] = {}

    def __init__(self, data_path: Path, options: Options | None = None) -> None:
        options = options or Options()
        self.data_path = data_path
        self.reading = choose_reading(options.extractor, options.score, self.rules)
        self.extractor = self.reading.name
        self.rows = list(self.read(data_path, options.image_folder))
        if options.needs_pictures:
            check_pictures(data_path, self.rows)
        self._by_index = {row.index: row for row in self.rows}
        self._by_name = {row.name: row.index for row in self.rows}
        self._open = lru_cache(maxsize=64)(lambda cell: open_picture(picture_bytes(cell)))  # neighbours share one

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """By columns and answers."""
        return path.suffix == ".tsv" and path.is_file() and table_kind(path) == cls.kind

    def options_used(self) -> frozenset[str]:
        """A folder of pictures, where any picture is a file."""
        return frozenset({"--image-folder"} if any(row.picture_file for row in self.rows) else ())

    @abstractmethod
    def read(self, data_path: Path, image_folder: Path | None) -> Sequence[Row]:
        """The rows of the table, checked."""

    @abstractmethod
    def text(self, row: Row) -> str:
        """What the model reads beside the picture."""

    @abstractmethod
    def choices(self, sample: Sample) -> tuple[str, ...]:
        """The answers of which one is right."""

    @abstractmethod
    def total(self, rows: Sequence[Row], extracted: Extracted) -> dict[str, Any]:
        """The scores of these rows, from those that have an answer in the data; empty where none has."""

    @abstractmethod
    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """The number that papers quote."""

    def counts(self, extracted: Extracted) -> dict[str, int]:
        """How many rows there are, and how many of them are scored."""
        unanswered = sum(not row.answer for row in self.rows)
        return {"rows": len(self.rows), "rows_scored": len(self.rows) - unanswered, "rows_without_answer": unanswered}

    def warnings(self) -> list[str]:
        """What a person should know about the table."""
        unanswered = [row.name for row in self.rows if not row.answer]
        if not unanswered or len(unanswered) == len(self.rows):
            return []
        return [f"{counted(len(unanswered), 'row')} without an answer, not scored: {name_some(unanswered)}"]

    def samples(self) -> list[Sample]:
        """Every row; those that show one picture are a group."""
        digest = lru_cache(maxsize=None)(_digest)
        groups: dict[str, int] = {}
        return [
            Sample(
                row.index,
                self.group(row, groups.setdefault(digest(row.picture, row.picture_file), row.index)),
                hashlib.sha256(
                    json.dumps([self.text(row), digest(row.picture, row.picture_file)]).encode()
                ).hexdigest(),
            )
            for row in self.rows
        ]

    def group(self, row: Row, same_picture: int) -> int:
        """What rows are asked together; `same_picture` is the first row that shows this row's picture."""
        return same_picture

    def prompt(self, sample: Sample) -> tuple[Message, ...]:
        """The picture, a line break and the question, as LLaVA and XTuner ask it."""
        row = self._by_index[sample.index]
        picture = str(row.picture_file.absolute()) if row.picture_file else self._open(row.picture)
        return (user(Image(picture), "\n" + self.text(row)),)

    def index_of(self, entry: Mapping[str, Any]) -> int | None:
        """By what the table's column `index` holds, else by the row's number; LLaVA's answers call it question_id."""
        if "index" not in entry and "question_id" in entry:
            entry = {**entry, "index": entry["question_id"]}
        name = as_name(str(entry.get("index", "")))
        if name in self._by_name:
            return self._by_name[name]
        if name and not is_index(self.rows[0].name) and not is_index(name):
            return None
        index = row_index(entry)
        return index if index in self._by_index else None

    def score(self, predictions: Mapping[int, str]) -> Scores:
        """The scores by the chosen rule; by the other rules too, where all were asked for."""
        extracted = self._read(predictions, self.reading.rule)
        scores = self.total(self.rows, extracted)
        splits = sorted({row.split for row in self.rows if row.answer and row.split}) if scores else []
        unreadable = sum(extracted[index] is None for index in extracted if index in predictions)
        extra: dict[str, Any] = {"score": "likelihood"} if self.reading.is_likelihood else {}
        if self.reading.beside and scores:
            extra["extractors"] = {
                name: self.total(self.rows, self._read(predictions, rule)) for name, rule in self.reading.beside.items()
            }
        what, value = self.headline(scores) if scores else ("", 0.0)
        return Scores(
            scores=scores,
            counts=self.counts(extracted) | {"answers_unreadable": unreadable},
            rows=self.row_entries(extracted),
            warnings=self.warnings(),
            headline=(what + (" by option likelihood" if self.reading.is_likelihood else ""), value)
            if scores
            else None,
            splits={
                name: self.total([row for row in self.rows if row.split == name], extracted) for name in splits
            } if len(splits) > 1 else {},
            extra=extra,
        )  # fmt: skip

    def row_entries(self, extracted: Extracted) -> list[dict[str, Any]]:
        """One entry per row for `rows.jsonl`."""
        return [
            {"index": row.index}
            | ({} if row.name == str(row.index) else {"name": row.name})
            | {"extracted": extracted[row.index], "hit": hit_of(row, extracted)}
            for row in self.rows
        ]

    def cards(self, predictions: Mapping[int, str], scores: Scores) -> list[Card]:
        """A card for each row."""
        return [
            as_card(row.name, [(row, entry)], predictions, entry["hit"], self.shown_text)
            for row, entry in zip(self.rows, scores.rows, strict=True)
        ]

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """`NAME_result.xlsx`: every row with its raw answer, in the columns that VLMEvalKit reads.

        `answer` and `split` hold what the table says: nothing in the test splits, and `split` is left out without one.
        Answers that were chosen by likelihood say so in `chosen_by`.
        """
        letters = sorted({letter for row in self.rows for letter in row.options}.union(self.submitted_letters))
        header = ["index", "question", *letters, "prediction", "category", "l2-category", "answer"]
        has_splits = any(row.split for row in self.rows)
        header += ["split"] * has_splits
        way = ["likelihood"] * self.reading.is_likelihood  # read as written, these would be scored as something else
        header += ["chosen_by"] * len(way)
        path = folder / f"{self.name}_result.xlsx"
        write_xlsx(path, header, (
            [
                row.index if is_index(row.name) else row.name, row.question,
                *(row.options.get(letter, "") for letter in letters),
                predictions.get(row.index, ""), row.category, row.l2_category, row.answer,
                *([row.split] * has_splits), *way,
            ]
            for row in self.rows
        ))  # fmt: skip
        return path

    def shown_text(self, row: Row) -> str:
        """The question as a person reads it."""
        return self.text(row)

    def _read(self, predictions: Mapping[int, str], rule: Extractor) -> dict[int, str | None]:
        return {
            row.index: rule(predictions[row.index], row.options) if row.index in predictions else None
            for row in self.rows
        }


def _digest(picture: str, file: Path | None) -> str:
    """What tells that a picture has changed."""
    facts = picture
    if file is not None:
        facts = f"{file.name} " + (f"{file.stat().st_size} {file.stat().st_mtime_ns}" if file.is_file() else "")
    return hashlib.sha256(facts.encode()).hexdigest()
