"""A hook that times a training as a stopwatch beside it would: from the end of one step to the end of the next."""

import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from vlmtool.engine.loop import StepResult


class Meter(Hook):
    """Writes samples/s and what was done to `file` at the end.

    Args:
        warmup: steps that do not count.
    """

    priority = "LOWEST"  # after logging and saving, which are part of a step

    def __init__(self, file: str, warmup: int) -> None:
        self.file, self.warmup = Path(file), warmup
        self._ends: list[tuple[float, float]] = []
        self._results: list[StepResult] = []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop the time."""
        self._ends.append((time.perf_counter(), time.process_time()))
        self._results.append(outputs)

    def after_train(self, runner: Any) -> None:
        """Write the figures down."""
        counted = self._results[self.warmup :]
        (first, first_cpu), (last, last_cpu) = self._ends[self.warmup - 1], self._ends[-1]
        samples = sum(result.num_samples for result in counted)
        walls = [wall for wall, _ in self._ends]
        steps = [b - a for a, b in zip(walls[self.warmup - 1 :], walls[self.warmup :], strict=False)]
        figures = {
            "samples_per_s": samples / (last - first),
            "samples_per_s_median": counted[0].num_samples / statistics.median(steps),
            "cpu_s_per_sample": (last_cpu - first_cpu) / samples,
            "tokens_per_s": sum(result.num_tokens for result in counted) / (last - first),
            "data_wait": sum(result.data_wait for result in counted) / (last - first),
            "supervised": sum(result.num_supervised for result in self._results),
            "tokens": sum(result.num_tokens for result in self._results),
            "samples": sum(result.num_samples for result in self._results),
            "supervised_each": sum(r.num_supervised for r in counted) / samples,
            "losses": [result.loss for result in self._results],
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        self.file.write_text(json.dumps(figures))
