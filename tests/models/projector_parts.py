"""Small projectors and the patches they read, for the tests of projectors."""

import torch
from torch import Tensor

from vlmtool.models.projectors.base import Projector

# Every option another than its default, and small: a class with options of its own needs an entry.
OTHER = {
    "LinearProjector": dict(bias=False),
    "MLPProjector": dict(depth=3, hidden_act="silu", bias=False),
    "XDPProjector": dict(factor=2),
    "LDPv2Projector": dict(grid_size=4),
    "PixelShuffleProjector": dict(factor=4),
    "QFormerProjector": dict(
        num_queries=5, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
        cross_attention_frequency=3, hidden_act="silu", dropout=0.1,
    ),
    "PerceiverResampler": dict(num_latents=6, depth=3, num_heads=2, head_dim=4, ffn_ratio=2, hidden_act="gelu"),
}  # fmt: skip
WIDTHS = (16, 24)


def small(cls: type[Projector]) -> Projector:
    """In eval mode; every weight random, so that a norm's or bias's start value hides nothing."""
    torch.manual_seed(0)
    projector = cls(*WIDTHS, **OTHER.get(cls.__name__, {})).eval()
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return projector


def on_meta(cls: type[Projector], *widths: int) -> Projector:
    """With its defaults, without memory."""
    with torch.device("meta"):
        return cls(*widths)


def features(num_images: int = 2, num_patches: int = 16) -> Tensor:
    return torch.randn(num_images, num_patches, WIDTHS[0], generator=torch.Generator().manual_seed(1))


def size(projector: Projector) -> int:
    return sum(parameter.numel() for parameter in projector.parameters())
