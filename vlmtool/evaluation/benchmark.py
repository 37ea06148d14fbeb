"""What a benchmark is: samples in, a prompt for each, predictions to a score. Engine and reports know no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vlmtool.data.conversation import Message


@dataclass(frozen=True)
class Sample:
    """One question for the model.

    Attributes:
        index: what predictions are keyed by; unique in the benchmark.
        group: samples of one group share picture, hint and question (the rotations of a multiple-choice question).
        fingerprint: hash of all that the prompt is made of, pictures included; an answer is reused only for the same.
        metadata: what the benchmark's own score and submission need, e.g. its table row.
    """

    index: int
    group: int
    fingerprint: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """What the predictions are worth.

    Attributes:
        scores: goes into `metrics.json` as it is; fractions of 1. Empty where the data has no answers.
        counts: how many rows, questions, missing predictions …; every thing left out of a score is counted here.
        rows: one plain mapping per sample, for `rows.jsonl`, in the order of the samples.
        warnings: sentences for a person, each with a number and a name.
        splits: the same as `scores`, per split, where the data has several.
    """

    scores: Mapping[str, Any]
    counts: Mapping[str, int]
    rows: Sequence[Mapping[str, Any]]
    warnings: Sequence[str] = ()
    splits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CardLine:
    """One asked form of a question on the HTML page: its text, what the model said and what came of it."""

    index: int
    text: str
    answer: str
    prediction: str
    extracted: str
    hit: bool | None  # None: the data has no answer


@dataclass(frozen=True)
class Card:
    """One question on the HTML page. `picture` is the file as it stands in the data, None where there is none."""

    title: str
    category: str
    picture: bytes | None
    lines: Sequence[CardLine]
    right: bool | None


class Benchmark(Protocol):
    """A benchmark file that was read and checked. A new benchmark is one class with these members."""

    name: str
    data_path: Path
    extractor: str

    def samples(self) -> Sequence[Sample]:
        """Every question to ask, in the order of the file."""

    def prompt(self, sample: Sample) -> tuple[Message, ...]:
        """The conversation to complete. Pictures in memory may still be undecoded: only their header was read."""

    def score(self, predictions: Mapping[int, str]) -> Scores:
        """Score the answers, keyed by `Sample.index`. A sample without a prediction counts as wrong, and is counted."""

    def cards(self, predictions: Mapping[int, str], scores: Scores) -> Sequence[Card]:
        """The questions as the HTML page shows them."""

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """Write the file that the benchmark's official server takes; returns its path."""
