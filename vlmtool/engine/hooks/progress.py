"""Loss, rate and time left: a bar on a terminal, plain lines elsewhere; every step to JSON Lines and TensorBoard."""

import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from rich.progress import Progress, TaskID, TextColumn

from vlmtool.engine.flop import StepFlop, measured_ceiling
from vlmtool.engine.hooks.board import Board
from vlmtool.engine.log import LogFile
from vlmtool.engine.loop import StepResult
from vlmtool.engine.resources import peak_memory
from vlmtool.utils.distributed import is_main, world_size
from vlmtool.utils.terminal import err, progress

LOG_FILE = "train_log.jsonl"


class ProgressHook(Hook):
    """Tells how the run goes.

    Args:
        every: steps between plain lines.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._log: LogFile | None = None
        self._board: Board | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._recent: deque[StepResult] = deque(maxlen=max(every, 20))
        self._start = (0.0, 0)
        self._first = 1  # step of this process, which also compiles, allocates and warms up
        self._flop = StepFlop(0.0, 0.0, 0.0, 0.0)
        self._ceiling = 1.0

    def before_train(self, runner: Any) -> None:
        """Open the log and the bar; a resumed run appends, later lines of a step supersede earlier ones."""
        self._start = (time.monotonic(), runner.iter)
        self._first = runner.iter + 1
        if not is_main():
            return
        self._flop = StepFlop.of(runner.vlm)
        self._ceiling = measured_ceiling(runner.device, runner.compute_dtype)
        folder = Path(runner.work_dir)
        self._log = LogFile(folder / LOG_FILE)
        self._board = Board(folder, runner.iter)
        if sys.stderr.isatty():
            self._bar = progress(TextColumn("{task.fields[status]}"))
            self._bar.start()
            self._task = self._bar.add_task("Training", total=runner.max_iters, completed=runner.iter, status="")

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write the step down."""
        if not is_main():
            return
        result: StepResult = outputs
        if runner.iter == self._first + 1:
            self._recent.clear()  # rates and time left are from here on those of steps like all that come
        self._recent.append(result)
        row = self._row(runner, result)
        self._write(row)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=runner.iter, status=_shortest(row))
        elif runner.iter % self.every == 0 or runner.iter == runner.max_iters:
            err().print(f"step {runner.iter}/{runner.max_iters}  {_short(row)}  {self._time_left(runner)} left")
        if runner.iter == self._first:
            self._start = (time.monotonic(), runner.iter)

    def after_train(self, runner: Any) -> None:
        """Close what was opened."""
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()

    def after_run(self, runner: Any) -> None:
        """Close it after an interruption too: a live bar would leave the terminal without its cursor."""
        self.after_train(runner)

    def _row(self, runner: Any, result: StepResult) -> dict[str, Any]:
        seconds = sum(r.seconds for r in self._recent)
        rates = {group["name"]: group["lr"] for group in runner.optim_wrapper.optimizer.param_groups}
        return {
            "step": runner.iter,
            "loss": result.loss,
            "lr": rates,
            "grad_norm": result.grad_norm,
            "skipped": result.skipped,
            "num_supervised": result.num_supervised,
            "num_tokens": result.num_tokens,
            "seconds": result.seconds,
            "samples_per_s": sum(r.num_samples for r in self._recent) / seconds,
            "tokens_per_s": sum(r.num_tokens for r in self._recent) / seconds,
            "data_wait": sum(r.data_wait for r in self._recent) / seconds,
            "mfu": self._operations() / seconds / (self._ceiling * world_size()),
            "peak_memory_gb": peak_memory(runner.device) / 1e9,
        }

    def _operations(self) -> float:
        return sum(self._flop.count(r.num_tokens, r.num_supervised, r.num_encoded, r.num_views) for r in self._recent)

    def _write(self, row: dict[str, Any]) -> None:
        assert self._log is not None and self._board is not None
        self._log.append(row)
        curves = ("loss", "grad_norm", "samples_per_s", "tokens_per_s", "data_wait", "mfu", "peak_memory_gb")
        self._board.add({f"train/{name}": row[name] for name in curves}, row["step"])
        self._board.add({f"lr/{part}": lr for part, lr in row["lr"].items()}, row["step"])

    def _time_left(self, runner: Any) -> str:
        started, first = self._start
        left = (runner.max_iters - runner.iter) * (time.monotonic() - started) / (runner.iter - first)
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"


def _short(row: dict[str, Any]) -> str:
    rate = max(row["lr"].values())
    return (
        f"loss {row['loss']:.4f}  lr {rate:.2e}  {row['samples_per_s']:.1f} samples/s  "
        f"{row['tokens_per_s']:.0f} tokens/s  data wait {100 * row['data_wait']:.1f} %  "
        f"MFU {100 * row['mfu']:.0f} %  peak {row['peak_memory_gb']:.1f} GB"
    )


def _shortest(row: dict[str, Any]) -> str:
    """What fits beside a bar in 80 columns."""
    return f"loss {row['loss']:.3f}  {row['samples_per_s']:.0f} samples/s"
