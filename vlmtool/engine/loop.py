"""The training loop: one mmengine iteration is one optimiser step."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.runner import BaseLoop

from vlmtool.data.collate import Batch
from vlmtool.data.dataset import BadSample
from vlmtool.engine.batches import draw, workers_of
from vlmtool.engine.signals import Stopped, StopSignals, agreed
from vlmtool.utils.distributed import gather_lists, rank, sum_over_ranks, world_size
from vlmtool.utils.errors import VlmtoolError

SKIPPED_FILE = "skipped_steps.jsonl"
COUNTED = ("num_supervised", "num_tokens", "num_samples", "num_images", "num_encoded", "num_views", "num_bad_samples")


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
                while self._iter < self.max_iters:
                    self._advance(batches, signals)
        self.runner.call_hook("after_train")
        return self.runner.model

    def _advance(self, batches: Iterator[Batch], signals: StopSignals) -> None:
        """One step, and what is due after it."""
        self.runner.call_hook("before_train_iter", batch_idx=self._iter)
        result = self.step(batches, signals)
        self._iter += 1
        self.num_skipped += result.skipped
        self.runner.call_hook("after_train_iter", batch_idx=self._iter - 1, outputs=result)
        self._refuse_endless_skipping()
        if self.stop_signal is not None and self._iter < self.max_iters:
            raise Stopped(self.stop_signal)

    def step(self, batches: Iterator[Batch], signals: StopSignals | None = None) -> StepResult:
        """One optimiser step; where its loss or its gradient is unusable the weights stay as they were."""
        start = time.perf_counter()
        self._enter("drawing data")
        plan = self.dataloader.batch_sampler.plan
        micro_batches = [draw(batches) for _ in plan.micro_batches(self._iter, rank())]
        waited = time.perf_counter() - start
        counts = self._count(micro_batches, signals)
        strategy = self.runner.strategy
        total = torch.zeros((), dtype=torch.float64, device=self.runner.device)
        loss, is_usable = math.nan, True
        for number, batch in enumerate(micro_batches, start=1):
            is_last = number == len(micro_batches)
            with strategy.micro_batch(self.runner.model, is_last):
                part = self._forward(batch.to(self.runner.device))
                total += part.detach().double()
                if is_last:  # before its gradients: some engines can leave out a step by them alone
                    self._enter("sharing the loss")
                    loss = sum_over_ranks([total.item()], self.runner.device)[0] / counts["num_supervised"]
                    is_usable = loss <= self.max_loss
                self._enter("backward pass")
                # Gradients are averaged over the ranks; the sum is what is wanted.
                strategy.backward(part * (world_size() / counts["num_supervised"]), is_usable)
        if not counts["num_images"]:
            strategy.leave_out(self.runner.vlm.image_parameters())
        grad_norm, stepped = strategy.update(is_usable)
        skipped = not stepped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        bad = [sample for batch in micro_batches for sample in batch.bad_samples]
        return StepResult(
            loss, grad_norm, counts["num_supervised"], counts["num_tokens"], counts["num_samples"],
            waited, time.perf_counter() - start, skipped,
            tuple(gather_lists(bad)) if counts["num_bad_samples"] else (), counts["num_encoded"], counts["num_views"],
        )  # fmt: skip

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the samples that a step draws, over all ranks."""
        plan, dataset = self.dataloader.batch_sampler.plan, self.dataloader.dataset
        return [dataset.conversation(index).id for index in plan.step_samples(step)]

    def _count(self, micro_batches: Sequence[Batch], signals: StopSignals | None) -> dict[str, int]:
        """`COUNTED` over all ranks; with it every rank learns of a signal that one of them got."""
        self._enter("counting tokens")
        own = [sum(getattr(batch, name) for batch in micro_batches) for name in COUNTED]
        sums = sum_over_ranks([*own, *(signals.counts() if signals else [])], self.runner.device)
        self.stop_signal = agreed(sums[len(COUNTED) :]) if signals else None
        return {name: int(value) for name, value in zip(COUNTED, sums, strict=False)}

    def _enter(self, phase: str) -> None:
        self.runner.watch.enter(self._iter, phase)

    def _forward(self, batch: Batch) -> torch.Tensor:
        """Summed loss of one micro-batch."""
        self._enter("forward pass")
        with self.runner.strategy.autocast():
            loss: torch.Tensor = self.runner.model(
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
