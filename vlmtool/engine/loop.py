"""The training loop: one mmengine iteration is one optimiser step."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from mmengine.runner import BaseLoop
from torch import Tensor

from vlmtool.data.collate import Batch
from vlmtool.data.dataset import BadSample
from vlmtool.engine.batches import workers_of
from vlmtool.engine.signals import Stopped, StopSignals, agreed
from vlmtool.engine.step_data import COUNTED, StepDataQueue
from vlmtool.utils.distributed import Sum, gather_lists, rank, world_size
from vlmtool.utils.errors import VlmtoolError

SKIPPED_FILE = "skipped_steps.jsonl"


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step saw, over all ranks."""

    loss: float
    """Summed loss of the supervised tokens divided by their number."""
    grad_norm: float
    """Over all trained weights, before clipping."""
    num_supervised: int
    num_tokens: int
    """Tokens, image tokens included, padding not."""
    num_samples: int
    data_wait: float
    """Seconds this rank waited for its data."""
    seconds: float
    skipped: bool = False
    """The weights were left as they were: loss or gradient was no number, or the loss exploded."""
    bad_samples: tuple[BadSample, ...] = ()
    """Samples that could not be used, whose place others took; those of all ranks."""
    num_encoded: int = 0
    """Views of pictures that went through the encoder."""
    num_views: int = 0
    """Views whose features went through the projector."""


class _Mean(NamedTuple):
    """A step's loss: the sum over all supervised tokens by their number, both over all ranks."""

    losses: Sum
    counts: Sum

    def read(self) -> float:
        """Waits for all ranks."""
        return float(self.losses.read()[0] / self.counts.read()[0])


class StepLoop(BaseLoop):
    """Draws a step's micro-batches, counts their supervised tokens over all ranks, then trains on each.

    So the loss of a step is the mean over its supervised tokens, whatever the number of ranks and micro-batches: a mean
    of means would weigh the tokens of short answers more.

    Args:
        max_steps: optimiser steps of the whole run.
        max_loss: a step with a higher loss is skipped; None: twice the loss of a blind guess, 2 ln(vocabulary).
        max_skipped: so many skipped steps in a row end the run.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_steps: int,
        max_loss: float | None = None,
        max_skipped: int = 10,
    ) -> None:
        super().__init__(runner, dataloader)
        self.max_iters = max_steps
        self.max_epochs = 1  # mmengine asks for it; epochs are counted from the samples seen
        self.max_loss = max_loss or 2 * math.log(runner.vlm.llm.config.get_text_config().vocab_size)
        self.max_skipped = max_skipped
        self.skipped_in_a_row = 0
        self.bad_samples: dict[str, None] = {}
        """Origins of the samples that could not be used, in the order in which they were met."""
        self.stop_signal: int | None = None
        """The signal to follow once the step is done; every rank learns of it in the same step."""
        self._iter = 0
        self.first_step = 0
        """Steps that were done before this start."""
        self.num_skipped = 0
        """Steps that were skipped since."""

    @property
    def iter(self) -> int:
        """Optimiser steps done."""
        return self._iter

    @property
    def epoch(self) -> int:
        """Whole passes over the data done."""
        plan = self.dataloader.batch_sampler.plan
        return self._iter * plan.step_size // plan.epoch_size

    def restart_at(self, step: int) -> None:
        """Go on after `step` done steps; data seen before is not drawn again."""
        self._iter = self.first_step = step
        self.dataloader.batch_sampler.first_step = step

    def state(self) -> dict[str, Any]:
        """What resuming needs beside the step."""
        return {"skipped_in_a_row": self.skipped_in_a_row, "bad_samples": list(self.bad_samples)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put `state` back."""
        self.skipped_in_a_row = state.get("skipped_in_a_row", 0)
        self.bad_samples = dict.fromkeys(state.get("bad_samples", ()))

    def run(self) -> torch.nn.Module:
        """Train from the current step to the last.

        Raises:
            Stopped: a signal asked for it; the run has been saved.
            VlmtoolError: too many steps in a row had to be skipped, or a loader's worker was killed.
        """
        with StopSignals() as signals:
            self.runner.call_hook("before_train")
            self.runner.model.train()
            with workers_of(self.dataloader) as batches:
                steps = range(self._iter, self.max_iters)
                queue = StepDataQueue(batches, steps, self._num_micro_batches, self._prepared)
                while self._iter < self.max_iters:
                    self._advance(queue, signals)
        self.runner.call_hook("after_train")
        return self.runner.model

    def _advance(self, queue: StepDataQueue, signals: StopSignals) -> None:
        """One step, and what is due after it."""
        self.runner.call_hook("before_train_iter", batch_idx=self._iter)
        result = self.step(queue, signals)
        self._iter += 1
        self.num_skipped += result.skipped
        self.runner.call_hook("after_train_iter", batch_idx=self._iter - 1, outputs=result)
        self._refuse_endless_skipping()
        if self.stop_signal is not None and self._iter < self.max_iters:
            raise Stopped(self.stop_signal)

    def step(self, queue: StepDataQueue, signals: StopSignals | None = None) -> StepResult:
        """One optimiser step; where its loss or its gradient is unusable the weights stay as they were."""
        start = time.perf_counter()
        self._enter("drawing data")
        data = queue.take()
        model, strategy, device = self.runner.model, self.runner.strategy, self.runner.device
        # What the processes tell each other is under way while they compute, and read where it is needed.
        counts = Sum(_on(device, [*data.counts, *(signals.counts() if signals else [])]))
        losses = _on(device, [0.0])
        *first, last = data.micro_batches
        for batch in first:
            with strategy.micro_batch(model, is_last=False):
                part = self._forward(batch)
                losses += part.detach()
                strategy.backward(self._share(part, counts))
        with strategy.micro_batch(model, is_last=True):
            part = self._forward(last)
            mean = _Mean(Sum(losses.add_(part.detach())), counts)
            share = self._share(part, counts)
            strategy.backward(share, lambda: self._is_usable(mean))
        self._enter("drawing the next data")
        queue.look_ahead(strategy.is_early)
        self._enter("sharing gradients")
        strategy.wait()
        told = counts.read().tolist()
        seen = {name: int(value) for name, value in zip(COUNTED, told, strict=False)}
        self.stop_signal = agreed(told[len(COUNTED) :]) if signals else None
        if not seen["num_images"]:
            strategy.leave_out(self.runner.vlm.image_parameters())
        loss = mean.read()
        grad_norm, stepped = strategy.update(loss <= self.max_loss)
        self.skipped_in_a_row = 0 if stepped else self.skipped_in_a_row + 1
        bad = [sample for batch in data.micro_batches for sample in batch.bad_samples]
        return StepResult(
            loss, grad_norm, seen["num_supervised"], seen["num_tokens"], seen["num_samples"],
            data.waited, time.perf_counter() - start, not stepped,
            tuple(gather_lists(bad)) if seen["num_bad_samples"] else (), seen["num_encoded"], seen["num_views"],
        )  # fmt: skip

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the samples that a step draws, over all ranks."""
        plan, dataset = self.dataloader.batch_sampler.plan, self.dataloader.dataset
        return [dataset.conversation(index).id for index in plan.step_samples(step)]

    def _num_micro_batches(self, step: int) -> int:
        return len(self.dataloader.batch_sampler.plan.micro_batches(step, rank()))

    def _prepared(self, batch: Batch) -> Batch:
        """With the features of its pictures, if a frozen encoder makes them."""
        if batch.pixels is None or not self.runner.vlm.has_frozen_encoder:
            return batch
        with self.runner.strategy.autocast():
            return replace(batch, pixels=self.runner.vlm.encoded(batch.pixels.to(self.runner.device)))

    def _share(self, loss: Tensor, counts: Sum) -> Tensor:
        """A micro-batch's share of the step's loss. Gradients are averaged over the ranks; the sum is wanted."""
        self._enter("counting tokens")
        factor = world_size() / counts.read()[0]
        self._enter("backward pass")
        return loss * factor.to(loss.dtype)

    def _is_usable(self, mean: _Mean) -> bool:
        """For an engine that can leave out a step by its gradients alone."""
        self._enter("sharing the loss")
        loss = mean.read()
        self._enter("backward pass")
        return loss <= self.max_loss

    def _enter(self, phase: str) -> None:
        self.runner.watch.enter(self._iter, phase)

    def _forward(self, batch: Batch) -> Tensor:
        """Summed loss of one micro-batch."""
        self._enter("forward pass")
        batch = batch.to(self.runner.device)
        with self.runner.strategy.autocast():
            loss: Tensor = self.runner.model(
                batch.input_ids, batch.labels, batch.pixels, lengths=batch.lengths, packed=batch.is_packed
            ).total
        return loss

    def _refuse_endless_skipping(self) -> None:
        if self.skipped_in_a_row >= self.max_skipped:
            raise VlmtoolError(
                f"{self.skipped_in_a_row} steps in a row, up to step {self._iter}, had a loss or gradient that is no "
                f"number, or a loss above {self.max_loss:.1f}. Their samples: {self.runner.work_dir}/{SKIPPED_FILE}\n"
                "Look at those samples, lower schedule.lr, or resume from an older checkpoint (--resume-from)."
            )


def _on(device: torch.device, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)
