"""One question with one picture and one answer: what it is, what an answer is worth, and how it is asked."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        key: what prediction files call it: the values of the benchmark's `key_fields`.
        text: all that the model reads beside the picture.
        answers: right answers as the data has them; empty where it has none.
        about: further fields of the data that judging or the submission needs.
    """

    index: int
    key: tuple[str, ...]
    text: str
    picture: Path | None
    answers: tuple[str, ...]
    category: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of text and picture; a picture's name, size and time tell that it has changed."""
        return hashlib.sha256(json.dumps([self.text, _file_facts(self.picture)]).encode()).hexdigest()


@dataclass(frozen=True)
class Verdict:
    """What was read out of an answer, None for nothing; its worth from 0 to 1, None where the data has no answer."""

    extracted: str | None
    credit: float | None


Judged = Sequence[tuple[Question, Verdict]]


def as_key(value: Any) -> str:
    """A field that names a question, as text: another tool may have made "3" a number, or 3 a "3.0"."""
    text = str(value).strip()
    return text.removesuffix(".0") if text.removesuffix(".0").isdecimal() else text


def is_right(credit: float | None) -> bool | None:
    """For people: worth at least half."""
    return None if credit is None else credit >= 0.5


def mean(values: Iterable[float]) -> float:
    """0 for none."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def _file_facts(path: Path | None) -> list[Any]:
    if path is None or not path.is_file():
        return []
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]
