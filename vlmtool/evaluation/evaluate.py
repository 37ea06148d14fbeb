"""A benchmark from end to end: a model's answers, or answers given already, to results in a folder."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlmtool.chat.generator import GenerationSettings
from vlmtool.evaluation.benchmark import Benchmark, Scores
from vlmtool.evaluation.files.answer_store import Answer, AnswerStore
from vlmtool.evaluation.files.predictions import read_predictions
from vlmtool.evaluation.reading.extract import chosen_by
from vlmtool.evaluation.report import report
from vlmtool.evaluation.run import Generator, answer_all
from vlmtool.utils.distributed import is_main
from vlmtool.utils.errors import DataError


def score_model(
    benchmark: Benchmark,
    generator: Generator,
    settings: GenerationSettings,
    folder: Path,
    batch_size: int | None,
    made_by: Mapping[str, Any],
) -> Scores | None:
    """Ask the model what `folder` has no answer to yet, and score it.

    Args:
        batch_size: questions asked at once; None grows to the memory.
        made_by: what `metrics.json` shall remember of the model.

    Returns:
        None in all processes but the first.
    """
    answers = answer_all(benchmark, generator, settings, folder, batch_size)
    if not is_main():
        return None
    facts = {**made_by, "identity": generator.identity, "generation": asdict(settings)}
    return report(benchmark, answers, folder, facts)


def score_given(benchmark: Benchmark, path: Path, folder: Path) -> Scores:
    """Score the answers of a file; they become the work dir's own.

    Raises:
        DataError: the file is broken, most of its answers do not belong to the benchmark, or they were chosen by
            likelihood where the benchmark takes written ones, or the other way round.
    """
    unknown: list[str] = []
    way = chosen_by(benchmark)
    answers = read_predictions(path, benchmark, unknown.append, way)
    if not answers and not unknown:
        raise DataError(f"{path}: holds no answer.\nGive the predictions that were made on {benchmark.data_path}.")
    if not answers:
        raise DataError(
            f"{path}: none of its {len(unknown)} answers is for a question of {benchmark.data_path}. "
            "Give the predictions that were made on this file."
        )
    if len(unknown) > len(answers):
        raise DataError(
            f"{path}: {len(unknown):,} of its {len(unknown) + len(answers):,} answers are for questions that "
            f"{benchmark.data_path} does not have.\nGive the predictions that were made on this file."
        )
    store = AnswerStore(folder)
    if not (store.path.exists() and store.path.samefile(path)):
        store.replace([Answer(index, text, chosen_by=way) for index, text in answers.items()])
    return report(benchmark, answers, folder, {"predictions": str(path)}, unknown)
