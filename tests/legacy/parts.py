"""What the five references share: the norm, rotary embeddings and naive causal attention, from their definitions."""

import torch
from torch import Tensor, nn

VOCABULARY = 384  # tests/standins.py: make_tokenizer
CONTEXT = 1024  # tokens


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight. Source: https://arxiv.org/abs/1910.07467, equation 4."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight


def inverse_frequencies(dim: int, theta: float) -> Tensor:
    """(dim / 2,): theta ** (-2i / dim). Source: RoFormer, https://arxiv.org/abs/2104.09864, section 3.2.2."""
    return 1 / theta ** (torch.arange(0, dim, 2) / dim)


def rotary_angles(positions: Tensor, dim: int, theta: float) -> Tensor:
    """(T, dim / 2) angles in radians of `positions` (T,)."""
    return positions[:, None] * inverse_frequencies(dim, theta)


def rotate_halves(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary embedding with the pairs (i, i + D / 2), as GPT-NeoX and Llama have it.

    Args:
        x: (B, T, H, D).
        angles: (T, D / 2).
    """
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # (T, 1, D / 2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def rotate_pairs(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary embedding with the pairs (2i, 2i + 1), as RoFormer has it, on the first 2R of D dimensions.

    Args:
        x: (B, T, H, D).
        angles: (T, R).
    """
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # (T, 1, R)
    rotated, rest = x[..., : 2 * angles.shape[-1]], x[..., 2 * angles.shape[-1] :]
    even, odd = rotated[..., 0::2], rotated[..., 1::2]
    pairs = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return torch.cat([pairs.flatten(-2), rest], dim=-1)


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V, where token t sees tokens 0 .. t.

    Args:
        query: (B, T, H, D).
        key, value: (B, T, G, D); G divides H, and query head h reads head h // (H / G).

    Returns:
        (B, T, H * D).

    Source: https://arxiv.org/abs/1706.03762, section 3.2; grouped queries: https://arxiv.org/abs/2305.13245.
    """
    tokens, heads, head_dim = query.shape[1:]
    key, value = (each.repeat_interleave(heads // each.shape[2], dim=2) for each in (key, value))
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / head_dim**0.5
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2)
