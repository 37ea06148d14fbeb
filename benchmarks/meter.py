"""A hook that times a training as a stopwatch beside it would: from the end of one step to the end of the next."""

import json
import time
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from benchmarks.asker import Asker
from vlmtool.engine.loop import StepResult
from vlmtool.utils.distributed import is_main
from vlmtool.utils.memory import peak_rss


class Meter(Hook):
    """Writes samples/s and what was done to `file` at the end.

    Args:
        warmup: steps that do not count.
        turns: None, or what `Asker` takes, of one of several trainings that take turns (`turns.py`): it waits for its
            turn every `stride` steps, which counts for nothing.
    """

    priority = "LOWEST"  # after logging and saving, which are part of a step

    def __init__(self, file: str, warmup: int, turns: dict[str, Any] | None = None) -> None:
        self.file, self.warmup, self.turns = Path(file), warmup, turns
        self._results: list[StepResult] = []
        self._times: list[tuple[float, float]] = []
        """Seconds of each step, and of the process's CPU."""
        self._began = _now()
        self._asker: Asker | None = None

    def before_train(self, runner: Any) -> None:
        """Say that this process is there."""
        if self.turns is not None:
            self._asker = Asker(**self.turns)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Wait for the turn."""
        if self._asker is not None and len(self._results) % self._asker.stride == 0:
            self._asker.wait()
            self._began = _now()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop the time."""
        wall, cpu = _now()
        self._times.append((wall - self._began[0], cpu - self._began[1]))
        self._began = wall, cpu
        self._results.append(outputs)

    def after_train(self, runner: Any) -> None:
        """Write the figures down."""
        if not is_main():
            return
        counted = self._results[self.warmup :]
        seconds, cpu = (sum(column) for column in zip(*self._times[self.warmup :], strict=True))
        samples = sum(result.num_samples for result in counted)
        figures = {
            "samples_per_s": samples / seconds,
            "cpu_s_per_sample": cpu / samples,
            "tokens_per_s": sum(result.num_tokens for result in counted) / seconds,
            "data_wait": sum(result.data_wait for result in counted) / seconds,
            "supervised": sum(result.num_supervised for result in self._results),
            "tokens": sum(result.num_tokens for result in self._results),
            "samples": sum(result.num_samples for result in self._results),
            "supervised_each": sum(r.num_supervised for r in counted) / samples,
            "losses": [result.loss for result in self._results],
            "seconds": [wall for wall, _ in self._times],
            "cpu_seconds": [cpu for _, cpu in self._times],
            "peak_rss_mb": peak_rss() // 2**20,
        }
        self.file.write_text(json.dumps(figures))


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
