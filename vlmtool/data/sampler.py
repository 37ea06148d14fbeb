"""Which samples make which step: a pure function of seed, step, rank and micro-batch; resuming needs no replay."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import Sampler

from vlmtool.data.packing import pack

WINDOW = 50  # steps whose samples are sorted by length together: enough for even batches, little enough to stay random


@dataclass(frozen=True)
class Share:
    """A set's part in a mixture: its samples, and how many times as many of them an epoch draws."""

    num_samples: int
    weight: float = 1.0

    @property
    def drawn(self) -> int:
        """Samples in an epoch: weight times size, rounded; at least one, so that no set is lost."""
        return max(1, round(self.weight * self.num_samples)) if self.num_samples else 0


@dataclass(frozen=True)
class StepPlan:
    """How the samples of a step are shared out.

    Epochs follow one another as one stream without gaps, and step k takes its samples k*G … (k+1)*G, where
    G = batch_size * accumulation * world_size. So nothing is dropped, and the same G gives the same steps.

    Args:
        shares: of the sets, whose samples are numbered one set after another.
        lengths: tokens per sample; only read where `by_length` or `pack_to`.
        pack_to: tokens that a micro-batch may hold. A step keeps its samples; they are shared out by their lengths over
            as few micro-batches as that allows. None: `accumulation` micro-batches of `batch_size`.
    """

    shares: tuple[Share, ...]
    batch_size: int
    accumulation: int
    world_size: int
    seed: int
    lengths: tuple[int, ...] = ()
    by_length: bool = False
    pack_to: int | None = None
    _orders: dict[int, list[int]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_samples(self) -> int:
        """Samples of all sets, each counted once."""
        return sum(share.num_samples for share in self.shares)

    @property
    def epoch_size(self) -> int:
        """Samples that an epoch draws."""
        return sum(share.drawn for share in self.shares)

    @property
    def step_size(self) -> int:
        """G, samples per optimiser step over all ranks."""
        return self.batch_size * self.accumulation * self.world_size

    def steps(self, epochs: float) -> int:
        """Optimiser steps that make so many epochs; the last one may begin another."""
        return max(1, -(-int(round(self.epoch_size * epochs)) // self.step_size))

    def micro_batches(self, step: int, rank: int) -> list[list[int]]:
        """Dataset indices of a rank's micro-batches of a step; every rank has as many."""
        samples = self.step_samples(step)
        if self.pack_to is not None:
            packed = pack([self.lengths[index] for index in samples], self.pack_to, self.world_size)
            return [[samples[place] for place in ranks[rank]] for ranks in packed]
        size, everyone = self.batch_size, self.batch_size * self.world_size
        return [samples[first : first + size] for first in range(rank * size, self.step_size, everyone)]

    def step_samples(self, step: int) -> list[int]:
        """Dataset indices of a whole step, over all ranks and micro-batches."""
        return [self._at(position) for position in range(step * self.step_size, (step + 1) * self.step_size)]

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, self.epoch_size)
        if epoch not in self._orders:
            self._orders.pop(epoch - 2, None)  # a step spans this epoch and the one before at most
            self._orders[epoch] = epoch_order(self, epoch)
        return self._orders[epoch][place]


def epoch_order(plan: StepPlan, epoch: int) -> list[int]:
    """Samples of one epoch in their order, a function of the seed alone."""
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + epoch)
    drawn = _draw(plan.shares, generator)
    order = drawn[torch.randperm(len(drawn), generator=generator)].tolist()
    if not plan.by_length:
        return order
    begun = -epoch * plan.epoch_size % plan.step_size  # samples that complete the step begun by the epoch before
    return order[:begun] + _group_by_length(order[begun:], plan.lengths, plan.step_size, generator)


def _draw(shares: Sequence[Share], generator: torch.Generator) -> Tensor:
    """Samples of one epoch, set by set: each as often as the weight has wholes, and some at random for the rest."""
    drawn, first = [torch.arange(0)], 0
    for share in shares:
        wholes, rest = divmod(share.drawn, share.num_samples)
        drawn.append(torch.arange(first, first + share.num_samples).repeat(wholes))
        if rest:
            drawn.append(first + torch.randperm(share.num_samples, generator=generator)[:rest])
        first += share.num_samples
    return torch.cat(drawn)


def _group_by_length(order: list[int], lengths: Sequence[int], step_size: int, generator: torch.Generator) -> list[int]:
    """Sort by length within windows of steps, then shuffle the steps: like lengths together, order still random.

    The step that is not full stays last, so that every other one is a group of its own.
    """
    window = step_size * WINDOW
    steps: list[list[int]] = []
    full = len(order) // step_size * step_size
    for start in range(0, full, window):
        grouped = sorted(order[start : min(start + window, full)], key=lambda i: -lengths[i])
        steps += [grouped[i : i + step_size] for i in range(0, len(grouped), step_size)]
    shuffled = torch.randperm(len(steps), generator=generator).tolist()
    return [index for step in shuffled for index in steps[step]] + order[full:]


class StepSampler(Sampler[list[int]]):
    """Micro-batches of one rank from `first_step` to `last_step`, for a DataLoader's `batch_sampler`."""

    def __init__(self, plan: StepPlan, rank: int, first_step: int, last_step: int) -> None:
        self.plan, self.rank, self.first_step, self.last_step = plan, rank, first_step, last_step

    def __len__(self) -> int:
        """At most so many; packed steps have fewer."""
        return (self.last_step - self.first_step) * self.plan.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.last_step):
            yield from self.plan.micro_batches(step, self.rank)
