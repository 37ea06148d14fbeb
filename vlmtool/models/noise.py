"""Noise on embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor


def add_neftune_noise(embeds: Tensor, is_text: Tensor, lengths: Sequence[int], alpha: float) -> Tensor:
    """Add uniform noise in ±alpha / sqrt(length * D) to the embeddings of the text.

    Args:
        embeds: (B, T, D).
        is_text: (B, T); other positions stay as they are.
        lengths: tokens of each row, those of images included and padding not.

    Source: NEFTune, https://arxiv.org/abs/2310.05914, algorithm 1.
    """
    length = torch.tensor(lengths, dtype=torch.float32, device=embeds.device)
    bound = alpha / (length * embeds.shape[-1]).sqrt()  # (B,)
    noise = torch.empty_like(embeds, dtype=torch.float32).uniform_(-1, 1) * bound[:, None, None]
    return embeds + noise.masked_fill(~is_text[..., None], 0).to(embeds.dtype)
