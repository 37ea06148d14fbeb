"""Cross entropy that takes no memory beside the logits."""

from typing import Any

import torch
from torch import Tensor

CACHED = 1 << 18  # logits, 1 MB


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """As `cross_entropy(logits, targets, reduction="sum")`; the logits are overwritten by their gradient.

    Args:
        logits: (S, V) float32. Where the step before saved them for its own gradient, the backward pass raises.
        targets: (S,) int64, each one of the V.
    """
    total: Tensor = _InPlace.apply(logits, targets)
    return total


class _InPlace(torch.autograd.Function):
    """The gradient, softmax minus one at the target, is known with the loss, and has the shape of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        logits, rows = logits.detach(), _rows_at_once(logits)
        parts = zip(logits.split(rows), targets.split(rows), strict=True)
        losses = [_overwrite(*part, keep=ctx.needs_input_grad[0]) for part in parts]
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(logits)
        return torch.cat(losses).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(gradients[0]), None


def _rows_at_once(logits: Tensor) -> int:
    """Rows between whose passes a core's cache still holds them; on a GPU all, where a call costs more."""
    return max(1, len(logits) if logits.is_cuda else CACHED // logits.shape[1])


def _overwrite(logits: Tensor, targets: Tensor, keep: bool) -> Tensor:
    """Losses (S, 1); where they are to be kept the logits become their gradients."""
    chosen = logits.gather(1, targets[:, None])
    highest = logits.amax(1, keepdim=True)
    sums = logits.sub_(highest).exp_().sum(1, keepdim=True)
    if keep:
        logits.div_(sums)
        logits.scatter_add_(1, targets[:, None], torch.full_like(chosen, -1.0))
    return sums.log() + highest - chosen
