"""Parts and hooks that fail on purpose, named in a recipe as a user's own would be."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from vlmtool.engine import saving, watch
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.utils.distributed import rank
from vlmtool.utils.errors import DataError


class MoodyProjector(MLPProjector):
    """Gives what is no number in its forward or backward pass, at the steps named.

    Args:
        forward_at, backward_at: training calls, counted from 1.
    """

    def __init__(
        self, vision_hidden_size: int, llm_hidden_size: int, depth: int = 2, hidden_act: str = "gelu",
        forward_at: list[int] | None = None, backward_at: list[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(vision_hidden_size, llm_hidden_size, depth, hidden_act)
        self.calls = 0
        self.forward_at, self.backward_at = forward_at or [], backward_at or []

    def options(self) -> dict[str, Any]:
        return {**super().options(), "forward_at": self.forward_at, "backward_at": self.backward_at}

    def forward(self, patch_features: Tensor) -> Tensor:
        embeds = super().forward(patch_features)
        if self.training and torch.is_grad_enabled():
            self.calls += 1
            if self.calls in self.forward_at:
                return embeds * float("nan")
            if self.calls in self.backward_at:
                embeds.register_hook(lambda gradient: gradient * float("inf"))
        return embeds


class FailingHook(Hook):
    """Rank 1 fails before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if batch_idx == self.step and rank() == 1:
            raise DataError("only this process knows why")


class HangHook(Hook):
    """Rank 1 falls asleep before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if batch_idx == self.step and rank() == 1:
            time.sleep(600)


class BusyHook(Hook):
    """Rank 0 prepares something for long, before the first step, while the other waits for it."""

    def before_run(self, runner: Any) -> None:
        if rank() == 0:
            time.sleep(6)
        torch.distributed.barrier()


class LateRankHook(Hook):
    """Rank 1 is late in each step; in the first it computes only when rank 0 has begun the data of further steps.

    `encoded` in the run folder has the steps in which rank 0's encoder ran.

    Args:
        num_micro_batches: of a step.
    """

    def __init__(self, num_micro_batches: int) -> None:
        self.num_micro_batches = num_micro_batches

    def before_train(self, runner: Any) -> None:
        encoded = Path(runner.work_dir) / "encoded"

        def note(*_: Any) -> None:
            with encoded.open("a") as file:
                file.write(f"{runner.iter}\n")

        def wait(*_: Any) -> None:
            deadline = time.monotonic() + 60
            while len(encoded.read_text().split()) <= self.num_micro_batches:
                if time.monotonic() > deadline:
                    raise TimeoutError("rank 0 does not look ahead")
                time.sleep(0.01)
            time.sleep(0.1)

        if rank() == 0:
            encoded.touch()
            runner.vlm.vision_encoder.register_forward_hook(note)
        torch.distributed.barrier()
        if rank() == 1:
            runner.vlm.llm.register_forward_pre_hook(wait)


class NeverBeginsHook(Hook):
    """Rank 1 falls asleep before the training begins, and waits for nobody."""

    def before_run(self, runner: Any) -> None:
        if rank() == 1:
            time.sleep(600)


class FullDiskHook(Hook):
    """No checkpoint can be written once the run has been told to stop, or after its last step."""

    priority = "NORMAL"  # before the one that saves

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.train_loop.stop_signal is not None or runner.iter == runner.max_iters:
            saving.encode_checkpoint = _no_space


class BlindWatchHook(Hook):
    """No sign of life can be written from step 2 on, nor the stacks of a hang."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if batch_idx == 1:
            watch.write_text = _no_space
            watch.open = _no_space
        time.sleep(0.7)


def _no_space(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
