"""Benchmarks during training: the score every so many steps, and the weights of the best one."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from vlmtool.chat.generator import GenerationSettings, Generator
from vlmtool.engine.hooks.board import Board
from vlmtool.engine.hooks.due import AFTER_SAVING, is_due, is_owed
from vlmtool.engine.log import LogFile, read_log
from vlmtool.evaluation.benchmark import Benchmark, Options
from vlmtool.evaluation.catalog import open_benchmark
from vlmtool.evaluation.run import answer_all
from vlmtool.utils.distributed import barrier, is_main, sum_over_ranks
from vlmtool.utils.errors import UsageError, VlmtoolError
from vlmtool.utils.files import remove
from vlmtool.utils.terminal import clean, err

LOG_FILE = "eval_log.jsonl"
BEST = "best.pth"
FOLDER = "eval"
SETTINGS = GenerationSettings(max_new_tokens=100)


class BenchmarkHook(Hook):
    """Answers and scores benchmarks on all ranks every `every` steps and at the end; the first decides what is best.

    Args:
        generator: over the model that is being trained.
        benchmarks: as the recipe names them, and what was read.
        every: optimiser steps; None: at the end only.
        batch_size: questions answered at once.
    """

    priority = AFTER_SAVING

    def __init__(
        self, generator: Generator, benchmarks: Sequence[tuple[str, Benchmark]], every: int | None, batch_size: int
    ) -> None:
        self.generator, self.benchmarks, self.every, self.batch_size = generator, list(benchmarks), every, batch_size

    def before_train(self, runner: Any) -> None:
        """Score what the run before was stopped from scoring."""
        names = [name for name, _ in self.benchmarks]
        if is_owed(runner, self.every, Path(runner.work_dir) / LOG_FILE, "benchmark", names):
            self._score(runner)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Score if it is time."""
        if is_due(runner, self.every):
            self._score(runner)

    def _score(self, runner: Any) -> None:
        folder = Path(runner.work_dir)
        scores = [self._score_one(runner, number, benchmark) for number, (_, benchmark) in enumerate(self.benchmarks)]
        is_best = is_main() and scores[0] > best_score(folder, self.benchmarks[0][0], before=runner.iter)
        if sum_over_ranks([float(is_best)], runner.device)[0]:
            self._keep(runner, folder)
        if is_main():
            self._write(folder, runner.iter, scores, is_best)

    def _score_one(self, runner: Any, number: int, benchmark: Benchmark) -> float:
        """What papers quote of it; the main rank's word counts."""
        folder = Path(runner.work_dir) / FOLDER / f"iter_{runner.iter}" / f"{number}_{benchmark.name}"
        if is_main():
            remove(folder)  # of weights that may have been others: this step was reached before
        barrier()

        def alive() -> None:
            runner.watch.enter(runner.iter - 1, "answering a benchmark")

        alive()
        with runner.autocast():
            answers = answer_all(benchmark, self.generator, SETTINGS, folder, self.batch_size, alive)
        if not is_main():
            return 0.0
        headline = benchmark.score(answers).headline
        return headline[1] if headline is not None else 0.0

    def _keep(self, runner: Any, folder: Path) -> None:
        """The weights of this step as best.pth, which is not dropped with the old checkpoints."""
        checkpoint = folder / f"iter_{runner.iter}.pth"
        if not checkpoint.is_file():
            runner.save_checkpoint(runner.work_dir, checkpoint.name)
        if is_main():
            put_beside(checkpoint, folder / BEST)

    def _write(self, folder: Path, step: int, scores: Sequence[float], is_best: bool) -> None:
        log = LogFile(folder / LOG_FILE)
        with Board(folder) as board:
            for (name, _), score in zip(self.benchmarks, scores, strict=True):
                board.add({f"eval/{name}": score}, step)
                log.append({"step": step, "benchmark": name, "score": score})
        words = ", ".join(f"{name} {score:.1f}" for (name, _), score in zip(self.benchmarks, scores, strict=True))
        err().print(clean(f"step {step}  {words}" + (f"; the best so far, kept as {BEST}" if is_best else "")))


def open_benchmarks(names: Sequence[str]) -> list[tuple[str, Benchmark]]:
    """Benchmarks that a recipe names as NAME:PATH.

    Raises:
        UsageError: no such benchmark or file. DataError: its data is broken.
    """
    found = []
    for entry in names:
        name, _, path = entry.partition(":")
        if not Path(path).exists():
            raise UsageError(f"schedule.eval '{entry}': there is no '{path}'.\nGive NAME:PATH, e.g. mmbench:dev.tsv.")
        try:
            found.append((entry, open_benchmark(name, Path(path), Options())))
        except VlmtoolError as error:
            raise type(error)(f"schedule.eval '{entry}': {error}") from error
    return found


def best_score(folder: Path, name: str, before: int) -> float:
    """The highest score so far of the benchmark `name`; rows of steps that are run again do not count."""
    rows = (row for row in read_log(folder / LOG_FILE) if row.get("benchmark") == name and row.get("step", 0) < before)
    return max((float(row["score"]) for row in rows if row["score"] is not None), default=float("-inf"))


def put_beside(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has none; `target` changes at once."""
    temporary = target.with_name(f".{target.name}.tmp")
    remove(temporary)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
