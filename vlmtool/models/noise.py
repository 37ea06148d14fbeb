"""Noise on embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor


def add_neftune_noise(
    embeds: Tensor, is_text: Tensor, lengths: Sequence[int], alpha: float, packed: bool = False
) -> Tensor:
    """Add uniform noise in ±alpha / sqrt(length * D) to the embeddings of the text.

    Args:
        embeds: (B, T, D).
        is_text: (B, T); other positions stay as they are.
        lengths: tokens of each sample, those of images included and padding not.
        packed: the samples lie in one row, one behind the other; else each is a row.

    Source: NEFTune, https://arxiv.org/abs/2310.05914, algorithm 1.
    """
    length = torch.tensor(lengths, dtype=torch.float32, device=embeds.device)
    bound = alpha / (length * embeds.shape[-1]).sqrt()  # (samples,)
    of_token = bound.repeat_interleave(length.long())[None] if packed else bound[:, None]  # (1, T) or (B, 1)
    noise = torch.empty_like(embeds, dtype=torch.float32).uniform_(-1, 1) * of_token[..., None]
    return embeds + noise.masked_fill(~is_text[..., None], 0).to(embeds.dtype)
