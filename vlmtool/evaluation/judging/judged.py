"""Benchmarks whose answers a judge model grades. An answer that got no grade counts in no score, and never silently."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from vlmtool.evaluation.benchmark import Benchmark, Judge, Options, Scores
from vlmtool.evaluation.question_benchmark import QuestionBenchmark
from vlmtool.evaluation.questions import Question, Verdict
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import UsageError, VlmtoolError
from vlmtool.utils.terminal import track

JUDGE = "judge"  # the extractor's name


class JudgedBenchmark(QuestionBenchmark):
    """Base of these benchmarks.

    Raises:
        UsageError: the extractor is the judge, and there is none.
    """

    extractors: ClassVar[tuple[str, ...]] = (JUDGE,)
    max_new_tokens: ClassVar[int] = 1024  # answers in sentences
    needs_judge: ClassVar[bool] = True

    def __init__(self, data_path: Path, options: Options | None = None) -> None:
        super().__init__(data_path, options)
        self._verdicts: dict[int, Verdict] = {}
        if self.extractor == JUDGE and self.options.judge is None:
            raise UsageError(
                f"{self.name}: a judge model grades the answers, and none is named. "
                "Give --judge-url (any OpenAI-compatible address, local ones too) and --judge-model."
            )

    def options_used(self) -> frozenset[str]:
        """With a judge's address, where a judge grades."""
        return super().options_used() | ({"--judge-url"} if self.extractor == JUDGE else set())

    @abstractmethod
    def ask_judge(self, judge: Judge, question: Question, prediction: str) -> Verdict:
        """The judge's grade as credit; a credit of None where it gave none."""

    def judge(self, question: Question, prediction: str) -> Verdict:
        """What `score` asked for."""
        return self._verdicts.get(question.index, Verdict(None, None))

    def score(self, predictions: Mapping[int, str]) -> Scores:
        """Have every answer graded, then total them.

        Raises:
            VlmtoolError: the judge graded none, or has stopped answering. Its replies so far are kept.
        """
        judge = self.options.judge
        if self.extractor != JUDGE or judge is None:
            return super().score(predictions)
        answered = [question for question in self.questions if question.answers and question.index in predictions]
        self._verdicts = {
            question.index: self.ask_judge(judge, question, predictions[question.index])
            for question in track(answered, len(answered), f"{self.name}: judge")
        }
        ungraded = sum(verdict.credit is None for verdict in self._verdicts.values())
        if ungraded and ungraded == len(answered):
            problems = "; ".join(judge.facts().get("problems", {})) or "its replies could not be read"
            raise VlmtoolError(
                f"{self.name}: the judge graded none of {counted(ungraded, 'answer')}: {problems}.\n"
                "The model's answers are kept in predictions.jsonl in the work dir.\n"
                "Run the same command again when the judge answers: only it is asked."
            )
        scores = super().score(predictions)
        counts = {name: count for name, count in scores.counts.items() if name != "answers_unreadable"}
        scores = replace(
            scores, counts=counts | {"answers_ungraded": ungraded}, extra={**scores.extra, "judge": judge.facts()}
        )
        return _marked(scores, ungraded, len(answered)) if ungraded else scores


def check_judge(benchmark: Benchmark) -> None:
    """See that the judge of a benchmark can be reached, if it has one.

    Raises:
        UsageError: it cannot.
    """
    if isinstance(benchmark, JudgedBenchmark) and benchmark.extractor == JUDGE and benchmark.options.judge:
        benchmark.options.judge.check()


def _marked(scores: Scores, ungraded: int, answered: int) -> Scores:
    """The same numbers under a name that nobody takes for the benchmark's own."""
    label = f"only {answered - ungraded} of {answered} answers graded"
    name, value = scores.headline or ("", 0.0)
    warning = (
        f"{ungraded} of {answered} answers have no grade of the judge and count in no score: these scores are not the "
        "benchmark's. Run the same command again to ask for the missing grades"
    )
    return replace(
        scores,
        scores={label: scores.scores},
        headline=(f"{name}, {label}", value) if scores.headline else None,
        warnings=[*scores.warnings, warning],
    )
