"""The training loop: one mmengine iteration is one optimiser step."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.runner import BaseLoop
from torch.nn.parallel import DistributedDataParallel

from vlmtool.data.collate import Batch
from vlmtool.utils.distributed import sum_over_ranks, world_size
from vlmtool.utils.errors import VlmtoolError


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step saw, over all ranks."""

    loss: float
    """Summed loss of the supervised tokens divided by their number."""
    num_supervised: int
    num_tokens: int
    """Tokens, image tokens included, padding not."""
    num_samples: int
    data_wait: float
    """Seconds this rank waited for its data."""
    seconds: float


class StepLoop(BaseLoop):
    """Draws a step's micro-batches, counts their supervised tokens over all ranks, then trains on each.

    So the loss of a step is the mean over its supervised tokens, whatever the number of ranks and micro-batches: a mean
    of means would weigh the tokens of short answers more.

    Args:
        max_steps: optimiser steps of the whole run.
        accumulation: micro-batches per step and rank.
    """

    def __init__(self, runner: Any, dataloader: Any, max_steps: int, accumulation: int) -> None:
        super().__init__(runner, dataloader)
        self.max_iters = max_steps
        self.max_epochs = 1  # mmengine asks for it; epochs are counted from the samples seen
        self.accumulation = accumulation
        self._iter = 0

    @property
    def iter(self) -> int:
        """Optimiser steps done."""
        return self._iter

    @property
    def epoch(self) -> int:
        """Whole passes over the data done."""
        plan = self.dataloader.batch_sampler.plan
        return self._iter * plan.step_size // plan.num_samples

    def restart_at(self, step: int) -> None:
        """Go on after `step` done steps; data seen before is not drawn again."""
        self._iter = step
        self.dataloader.batch_sampler.first_step = step

    def run(self) -> torch.nn.Module:
        """Train from the current step to the last."""
        self.runner.call_hook("before_train")
        self.runner.model.train()
        batches = iter(self.dataloader)
        while self._iter < self.max_iters:
            self.runner.call_hook("before_train_iter", batch_idx=self._iter)
            result = self.step(batches)
            self._iter += 1
            self.runner.call_hook("after_train_iter", batch_idx=self._iter - 1, outputs=result)
        self.runner.call_hook("after_train")
        return self.runner.model

    def step(self, batches: Iterator[Batch]) -> StepResult:
        """One optimiser step."""
        start = time.perf_counter()
        micro_batches = [draw(batches) for _ in range(self.accumulation)]
        waited = time.perf_counter() - start
        device = self.runner.device
        counted = ("num_supervised", "num_tokens", "num_samples", "num_images")
        counts = sum_over_ranks([sum(getattr(b, name) for b in micro_batches) for name in counted], device)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for number, batch in enumerate(micro_batches):
            with self._sync_only_last(number):
                total += self._backward(batch.to(device), counts[0])
        if not counts[3]:  # a step without images says nothing on these weights: their momentum must not move them
            for parameter in self.runner.vlm.image_parameters():
                parameter.grad = None
        self.runner.optim_wrapper.step()
        self.runner.optim_wrapper.zero_grad(set_to_none=True)
        loss = sum_over_ranks([total.item()], device)[0] / counts[0]
        return StepResult(loss, int(counts[0]), int(counts[1]), int(counts[2]), waited, time.perf_counter() - start)

    def _backward(self, batch: Batch, num_supervised: float) -> torch.Tensor:
        """Gradients of one micro-batch; returns its summed loss."""
        with self.runner.autocast():
            loss = self.runner.model(batch.input_ids, batch.labels, batch.pixel_values).total
        # Data parallel averages gradients over the ranks; the sum is what is wanted.
        self.runner.optim_wrapper.backward(loss * (world_size() / num_supervised))
        return loss.detach().double()

    def _sync_only_last(self, number: int) -> AbstractContextManager[None]:
        """Reduce gradients with the last micro-batch only."""
        model = self.runner.model
        if isinstance(model, DistributedDataParallel) and number < self.accumulation - 1:
            return model.no_sync()
        return nullcontext()


def draw(batches: Iterator[Batch]) -> Batch:
    """The next batch; an error of a loader's worker as it was raised there, without the traceback torch puts around."""
    try:
        return next(batches)
    except VlmtoolError as error:
        kind = type(error)
        raise kind(str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2]) from error
