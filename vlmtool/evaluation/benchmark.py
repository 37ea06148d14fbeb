"""What a benchmark is: samples in, a prompt for each, predictions to a score. Engine and reports know no more."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from vlmtool.data.conversation import Message

SHOWN = 5  # names in a warning

T = TypeVar("T")


class Judge(Protocol):
    """A judge model; see `judge.ChatJudge`."""

    def grade(self, prompt: str, read: Callable[[str], T | None], reminder: str) -> T | None:
        """What `read` finds in the reply to `prompt`; None where no reply can be read."""

    def facts(self) -> dict[str, Any]:
        """What `metrics.json` shall remember of it."""

    def check(self) -> None:
        """See that it can be reached, before the first question is asked."""


@dataclass(frozen=True)
class Options:
    """How a benchmark is read and scored, beside its data.

    Attributes:
        image_folder: where the pictures are; None looks where the official files have them.
        extractor: name of the rule that reads an answer; None takes the benchmark's first.
        needs_pictures: False to score given predictions; the pictures may then be missing.
        ocr_tokens: show the model the text that was recognised in the picture, where the data has it.
        judge: asks a judge model; None where the benchmark needs none, or an offline proxy shall do.
        score: "generate" where the model writes its answers; "likelihood" where it chooses among the given ones.
    """

    image_folder: Path | None = None
    extractor: str | None = None
    needs_pictures: bool = True
    ocr_tokens: bool = False
    judge: Judge | None = None
    score: str = "generate"


@dataclass(frozen=True)
class Sample:
    """One question for the model.

    Attributes:
        index: what predictions are keyed by; unique in the benchmark.
        group: samples of one group share a picture, and their prompts begin alike: they are asked together.
        fingerprint: hash of all that the prompt is made of, pictures included; an answer is reused only for the same.
    """

    index: int
    group: int
    fingerprint: str


@dataclass(frozen=True)
class Scores:
    """What the predictions are worth.

    Attributes:
        scores: goes into `metrics.json` as it is: names and numbers, or one such mapping per way of scoring or per
            split. Empty where the data has no answers.
        counts: how many rows, questions …; every thing left out of a score is counted here.
        rows: one plain mapping per sample, for `rows.jsonl`, in the order of the samples.
        warnings: sentences for a person, each with a number and a name.
        splits: the same as `scores`, per split, where the data has several.
        headline: the name of the number that papers quote, and the number as they print it.
        extra: further entries of `metrics.json`, e.g. scores by other rules.
    """

    scores: Mapping[str, Any]
    counts: Mapping[str, int]
    rows: Sequence[Mapping[str, Any]]
    warnings: Sequence[str] = ()
    splits: Mapping[str, Any] = field(default_factory=dict)
    headline: tuple[str, float] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


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
    """One question on the HTML page. `picture` is a file, or its bytes as they stand in the data; or there is none."""

    title: str
    category: str
    picture: Path | bytes | None
    lines: Sequence[CardLine]
    right: bool | None


class Benchmark(Protocol):
    """A benchmark that was read and checked: `Class(data_path, options)`. A new one is one class with these members."""

    name: ClassVar[str]
    scale: ClassVar[float]
    """What scores are multiplied by for people: 100 for fractions of 1."""
    max_new_tokens: ClassVar[int]
    """How long an answer may be, where the user does not say."""
    answer_fields: ClassVar[tuple[str, ...]]
    """Where a file of predictions has the answer: the first of these names that an entry has."""
    places: ClassVar[tuple[str, ...]]
    """Patterns of its `data_path`, matched from the right: `eval all` takes what fits, at any depth."""
    rules_in_words: ClassVar[Mapping[str, str]]
    """What an extractor does, where its name alone would mislead."""
    data_path: Path
    extractor: str

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Whether a file or folder that `places` does not name is certainly this benchmark's data."""

    def options_used(self) -> frozenset[str]:
        """Which of --image-folder, --ocr-tokens and --judge-url have an effect."""

    def samples(self) -> Sequence[Sample]:
        """Every question to ask, in the order of the file."""

    def prompt(self, sample: Sample) -> tuple[Message, ...]:
        """The conversation to complete. Pictures in memory may still be undecoded: only their header was read."""

    def index_of(self, entry: Mapping[str, Any]) -> int | None:
        """Which sample an entry of a predictions file is for; None where the benchmark does not have it.

        Raises:
            DataError: the entry does not say which; half a sentence that the caller completes with the place.
        """

    def score(self, predictions: Mapping[int, str]) -> Scores:
        """Score the answers, keyed by `Sample.index`. A sample without a prediction counts as wrong, and is counted."""

    def cards(self, predictions: Mapping[int, str], scores: Scores) -> Sequence[Card]:
        """The questions as the HTML page shows them."""

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """Write the file that the benchmark's official server or script takes; returns its path."""


def as_columns(scores: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Scores as columns of numbers: a benchmark has one, or several named ones."""
    nested = {name: value for name, value in scores.items() if isinstance(value, Mapping)}
    flat = {name: value for name, value in scores.items() if name not in nested}
    return ({"score": flat} if flat else {}) | nested


def name_some(names: Sequence[object]) -> str:
    """The first few of them, for a warning."""
    more = f", … ({len(names) - SHOWN} more)" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more
