"""Floating-point operations of a training step, counted, and those that the device can do, measured.

2 for a multiplication and an addition, for real tokens (padding is not counted):

    T (4 F + 6 A) + S 4 H + V (P 2 E + Q 6 R)

T tokens in the language model, F its frozen weights in the blocks (2 forward, 2 for the gradient of what comes in; that
of the weight itself, 2 more, is not made), A its trained ones, adapters or all of them (all three: 6), S supervised
tokens, H weights of the head and those that the last block needs for these tokens alone (6 where trained), V views of
pictures that were encoded, of P patches with CLS, E weights of the encoder up to the layer that is read (forward alone:
2; 4 and 6 as above where it is trained), Q image tokens that the projector reads or makes, the more of the two, R its
weights (2 where it is frozen). Embedding tables, norms and the products inside attention are left out, and what
activation checkpointing computes a second time too.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from vlmtool.models.last_block import narrowable
from vlmtool.models.vlm import VisionLanguageModel

FORWARD, THROUGH, TRAINED = 2, 4, 6  # operations for a weight: forward; with the gradient of its input; and its own
SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices whose product is timed
TIMES = 5
DEFAULT_PATCHES = 256  # where the encoder takes pictures in their own proportions


@dataclass(frozen=True)
class StepFlop:
    """Operations for a token, for a supervised one, and for a view in the encoder and in the projector."""

    token: float
    supervised: float
    encoded: float
    projected: float

    @classmethod
    def of(cls, model: VisionLanguageModel) -> "StepFlop":
        """Counted by the sizes of the layers, which stay what they are where weights lie in pieces."""
        head = model.llm.get_output_embeddings()
        at_supervised = [head, *(m for one in narrowable(model.llm) for m in one.modules() if model.is_narrowed)]
        everywhere = [m for m in model.llm.modules() if m not in at_supervised]
        encoder, patches = model.vision_encoder, model.vision_encoder.num_patches or DEFAULT_PATCHES
        trains = any(p.requires_grad for p in encoder.parameters())
        return cls(
            token=_operations(everywhere, THROUGH),
            supervised=_operations(at_supervised, THROUGH),
            encoded=(patches + 1) * _operations(list(encoder.modules()), THROUGH if trains else FORWARD),
            projected=patches * _operations(list(model.projector.modules()), THROUGH if trains else FORWARD),
        )

    def count(self, tokens: int, supervised: int, encoded: int, views: int) -> float:
        """Of a step.

        Args:
            encoded: views that went through the encoder.
            views: that went through the projector.
        """
        return tokens * self.token + supervised * self.supervised + encoded * self.encoded + views * self.projected


def _operations(modules: Iterable[nn.Module], of_frozen: int) -> float:
    """For one position, over linear layers and convolutions."""
    total = 0.0
    for module in modules:
        if isinstance(module, nn.Linear):
            size = module.in_features * module.out_features
        elif isinstance(module, nn.Conv2d):
            size = module.in_channels // module.groups * module.out_channels * module.kernel_size[0] ** 2
        else:
            continue
        total += size * (TRAINED if module.weight.requires_grad else of_frozen)
    return total


@torch.no_grad()
def measured_ceiling(device: torch.device, dtype: torch.dtype | None) -> float:
    """Operations per second of one large matrix product, the best of a few: what nothing on this device goes past.

    Args:
        dtype: that training computes in; None: float32.
    """
    side = SIDE.get(device.type, SIDE["cpu"])
    matrix = torch.ones(side, side, device=device, dtype=dtype or torch.float32)
    best = float("inf")
    for _ in range(TIMES):
        _wait(device)
        start = time.perf_counter()
        matrix @ matrix
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return FORWARD * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
