"""Benchmarks whose questions are one picture, one text, one answer each: all but what is asked and how it is judged."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.data.conversation import Image, Message, user
from vlmtool.evaluation.benchmark import Card, CardLine, Options, Sample, Scores
from vlmtool.evaluation.questions import Judged, Question, Verdict, as_key, is_right
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import DataError, UsageError, did_you_mean


class QuestionBenchmark(ABC):
    """Base of these benchmarks.

    Raises:
        UsageError: no such extractor. DataError: the data is broken, or pictures are missing.
    """

    name: ClassVar[str]
    places: ClassVar[tuple[str, ...]]
    key_fields: ClassVar[tuple[str, ...]]
    extractors: ClassVar[tuple[str, ...]] = ("official",)
    max_new_tokens: ClassVar[int] = 100
    answer_fields: ClassVar[tuple[str, ...]] = ("prediction", "text")
    scale: ClassVar[float] = 1.0
    rules_in_words: ClassVar[Mapping[str, str]] = {}

    def __init__(self, data_path: Path, options: Options | None = None) -> None:
        self.data_path = data_path
        self.options = options or Options()
        self.extractor = self._extractor(self.options.extractor)
        self.counts: dict[str, int] = {}
        self.warnings: list[str] = []  # with the counts: what `read` found odd in the data
        self.questions = self.read()
        if not self.questions:
            raise DataError(f"{data_path}: it has no questions. Is it the whole file?")
        self._by_key = {question.key: question.index for question in self.questions}
        if len(self._by_key) < len(self.questions):
            raise DataError(f"{data_path}: {self._doubled()} stands there twice. Keep one of each.")
        if self.options.needs_pictures:
            self._check_pictures()

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Only where a benchmark's files can be told by more than their names."""
        return False

    def options_used(self) -> frozenset[str]:
        """Every benchmark of this kind has its pictures in files."""
        return frozenset({"--image-folder"})

    @abstractmethod
    def read(self) -> list[Question]:
        """Every question of `data_path`, numbered from 0 in the order of the file."""

    @abstractmethod
    def judge(self, question: Question, prediction: str) -> Verdict:
        """What one answer is worth."""

    @abstractmethod
    def total(self, judged: Judged) -> dict[str, Any]:
        """The scores, from the questions that have an answer in the data."""

    @abstractmethod
    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """The number that papers quote."""

    def extra(self, judged: Judged) -> dict[str, Any]:
        """Further entries of `metrics.json`, from the questions that have an answer in the data."""
        return {}

    @abstractmethod
    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """The official file of answers."""

    def samples(self) -> list[Sample]:
        """Every question; those about one picture are a group."""
        groups: dict[Path | int, int] = {}
        return [
            Sample(
                question.index,
                groups.setdefault(question.picture or -1 - question.index, question.index),
                question.fingerprint,
            )
            for question in self.questions
        ]

    def prompt(self, sample: Sample) -> tuple[Message, ...]:
        """The picture, a line break and the text, as LLaVA asks."""
        question = self.questions[sample.index]
        if question.picture is None:
            return (user(question.text),)
        return (user(Image(str(question.picture.absolute())), "\n" + question.text),)

    def key_of(self, entry: Mapping[str, Any]) -> tuple[str, ...] | None:
        """The key of the question that an entry of a predictions file is for; None where it names none."""
        if all(name in entry for name in self.key_fields):
            return tuple(as_key(entry[name]) for name in self.key_fields)
        return None

    def index_of(self, entry: Mapping[str, Any]) -> int | None:
        """By the benchmark's own fields, else by `index`, as our own record has it."""
        key = self.key_of(entry)
        if key is not None:
            return self._by_key.get(key)
        if "index" not in entry:
            named = " and ".join(self.key_fields)
            raise DataError(f"it has neither {named} nor index. One of them names the question.")
        index = as_key(entry["index"])
        if not index.isdecimal() or int(index) >= len(self.questions):
            return None
        self._check_numbering(self.questions[int(index)], entry)
        return int(index)

    def score(self, predictions: Mapping[int, str]) -> Scores:
        """Judge every answer, then total them. One that is missing is worth nothing."""
        judged = [(question, self._verdict(question, predictions)) for question in self.questions]
        with_answer = [(question, verdict) for question, verdict in judged if question.answers]
        scores = self.total(with_answer) if with_answer else {}
        unanswered = len(judged) - len(with_answer)
        return Scores(
            scores=scores,
            counts={
                "questions": len(judged),
                "questions_without_answer": unanswered,
                "answers_unreadable": sum(
                    verdict.extracted is None for question, verdict in judged if question.index in predictions
                ),
                **self.counts,
            },
            rows=[
                {
                    "index": question.index, **dict(zip(self.key_fields, question.key, strict=True)),
                    "category": question.category, "extracted": verdict.extracted, "hit": verdict.credit,
                }
                for question, verdict in judged
            ],
            warnings=[
                *self.warnings,
                *([f"{counted(unanswered, 'question')} without an answer in the data, not scored"] * bool(
                    unanswered and with_answer
                )),
            ],
            headline=self.headline(scores) if scores else None,
            extra=self.extra(with_answer) if with_answer else {},
        )  # fmt: skip

    def cards(self, predictions: Mapping[int, str], scores: Scores) -> list[Card]:
        """A card for each question."""
        return [
            Card(
                " ".join(question.key),
                question.category,
                question.picture,
                [
                    CardLine(
                        question.index, question.text, " | ".join(dict.fromkeys(question.answers)),
                        predictions.get(question.index, ""), row["extracted"] or "", is_right(row["hit"]),
                    )
                ],
                is_right(row["hit"]),
            )
            for question, row in zip(self.questions, scores.rows, strict=True)
        ]  # fmt: skip

    def _verdict(self, question: Question, predictions: Mapping[int, str]) -> Verdict:
        if question.index not in predictions:
            return Verdict(None, 0.0 if question.answers else None)
        verdict = self.judge(question, predictions[question.index])
        return verdict if question.answers else Verdict(verdict.extracted, None)

    @staticmethod
    def _check_numbering(question: Question, entry: Mapping[str, Any]) -> None:
        """Other tools number the questions their own way; where they tell the question too, it must be the same."""
        told = " ".join(str(entry.get("question", "")).split())
        if told and told.lower() not in " ".join(question.text.split()).lower():
            raise DataError(
                f"index {question.index} is another question here. The index counts from 0 in the order of the data."
            )

    def _extractor(self, name: str | None) -> str:
        if name is None:
            return self.extractors[0]
        if name not in self.extractors:
            raise UsageError(
                f"--extractor {name}: {self.name} has no such rule.{did_you_mean(name, self.extractors)} "
                f"Use one of: {', '.join(self.extractors)}."
            )
        return name

    def _doubled(self) -> str:
        seen: set[tuple[str, ...]] = set()
        key = next(q.key for q in self.questions if q.key in seen or seen.add(q.key))  # type: ignore[func-returns-value]
        return ", ".join(f"{name} {value}" for name, value in zip(self.key_fields, key, strict=True))

    def _check_pictures(self) -> None:
        pictures = dict.fromkeys(question.picture for question in self.questions if question.picture is not None)
        missing = [path for path in pictures if not path.is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(pictures)} pictures are not there, the first is {missing[0]}.\n"
                "Name the folder that holds them: --image-folder DIR."
            )
