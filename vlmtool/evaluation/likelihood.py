"""Scoring by likelihood: the model does not write, it chooses the option that it finds most likely.

Its scores are higher where models say more than a letter, and are not those that papers call exact matching: an answer
that was chosen never stands in for one that was generated, as its record tells them apart.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

from vlmtool.chat import likelihood
from vlmtool.chat.generator import GenerationSettings, Request
from vlmtool.chat.generator import Generator as Model
from vlmtool.data.conversation import Message
from vlmtool.evaluation.benchmark import Benchmark, Sample
from vlmtool.evaluation.reading.extract import chosen_by
from vlmtool.utils.errors import DataError


class Choosing(Protocol):
    """A benchmark whose questions have a few given answers."""

    def samples(self) -> Sequence[Sample]:
        """Every question."""

    def prompt(self, sample: Sample) -> tuple[Message, ...]:
        """The conversation to complete."""

    def choices(self, sample: Sample) -> tuple[str, ...]:
        """The answers of which one is right."""


class LikelihoodGenerator:
    """In the place of a generator: answers with the most likely of a question's options, the first of equal ones."""

    def __init__(self, generator: Model, benchmark: Choosing) -> None:
        self._generator = generator
        self._choices: dict[tuple[str, ...], tuple[str, ...]] = {}
        for sample in benchmark.samples():
            key, choices = _texts(benchmark.prompt(sample)), benchmark.choices(sample)
            if self._choices.setdefault(key, choices) != choices:
                raise DataError(
                    f"index {sample.index}: another question has the same text, but other options. Give each its own."
                )

    @property
    def identity(self) -> str:
        """Never that of generated answers."""
        return f"likelihood {self._generator.identity}"

    def prompt_length(self, request: Request) -> int:
        """Tokens of the prompt, images included."""
        return self._generator.prompt_length(request)

    def prepare(self, requests: Sequence[Request]) -> likelihood.Options:
        """Read prompts, images and options of a batch."""
        choices = [self._choices[_texts(request.messages)] for request in requests]
        return likelihood.read_options(self._generator, requests, choices)

    def answer(self, batch: likelihood.Options, settings: GenerationSettings) -> list[str]:
        """The most likely option of each; settings are for generating and have no effect."""
        scores = likelihood.score_options(self._generator, batch)
        return [max(of_prompt, key=of_prompt.__getitem__) for of_prompt in scores]


def for_scoring(generator: Any, benchmark: Benchmark) -> Any:
    """The generator that answers this benchmark: the model's own, or the one that chooses."""
    if not chosen_by(benchmark):
        return generator
    return LikelihoodGenerator(generator, cast(Choosing, benchmark))


def _texts(messages: Sequence[Message]) -> tuple[str, ...]:
    return tuple(part for message in messages for part in message.content if isinstance(part, str))
