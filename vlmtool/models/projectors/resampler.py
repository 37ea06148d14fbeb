"""Learned latents that read the patches in a few layers of cross attention: Flamingo's resampler."""

from typing import Any

import torch
from torch import Tensor, nn

from vlmtool.models.projectors.base import Projector, activation, check_counts


class PerceiverResampler(Projector):
    """Latents of the patches' width; `depth` times attention over [patches; latents] and feed-forward; norm; Linear.

    Source: Flamingo, https://arxiv.org/abs/2204.14198, appendix A.1.1, there with 6 layers of 16 heads; for
    single pictures, so without time embeddings.

    Args:
        num_latents: tokens per image.
        head_dim: width of an attention head.
        ffn_ratio: width of the feed-forward layer over D_vision.
        hidden_act: of the feed-forward layer; relu2 is the squared ReLU of the paper.
    """

    def __init__(
        self,
        vision_hidden_size: int,
        llm_hidden_size: int,
        num_latents: int = 64,
        depth: int = 2,
        num_heads: int = 8,
        head_dim: int = 128,
        ffn_ratio: int = 4,
        hidden_act: str = "relu2",
    ) -> None:
        super().__init__(vision_hidden_size, llm_hidden_size)
        shape = {"num_heads": num_heads, "head_dim": head_dim, "ffn_ratio": ffn_ratio}
        check_counts(self, num_latents=num_latents, depth=depth, **shape)
        self._options = {"num_latents": num_latents, "depth": depth, **shape, "hidden_act": hidden_act}
        self.latents = nn.Parameter(torch.empty(1, num_latents, vision_hidden_size).normal_(std=0.02))
        self.layers = nn.ModuleList(
            ResamplerLayer(vision_hidden_size, act=activation(self, hidden_act), **shape) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(vision_hidden_size)
        self.linear = nn.Linear(vision_hidden_size, llm_hidden_size)

    def forward(self, patch_features: Tensor) -> Tensor:
        """(I, N, D_vision) → (I, num_latents, D_llm)."""
        latents = self.latents.expand(len(patch_features), -1, -1)
        for layer in self.layers:
            latents = layer(latents, patch_features)
        return self.linear(self.norm(latents))

    def num_tokens(self, num_patches: int) -> int:
        """num_latents, for any N."""
        return self.latents.shape[1]

    def options(self) -> dict[str, Any]:
        """num_latents, depth and the shape of a layer."""
        return dict(self._options)


class ResamplerLayer(nn.Module):
    """Attention of the latents over patches and latents, then a feed-forward layer; each normed before, added after."""

    def __init__(self, width: int, num_heads: int, head_dim: int, ffn_ratio: int, act: nn.Module) -> None:
        super().__init__()
        self.heads = (num_heads, head_dim)
        inner = num_heads * head_dim
        self.patch_norm = nn.LayerNorm(width)
        self.latent_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.ffn = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, ffn_ratio * width, bias=False),
            act,
            nn.Linear(ffn_ratio * width, width, bias=False),
        )

    def forward(self, latents: Tensor, patch_features: Tensor) -> Tensor:
        """(I, num_latents, D_vision) and (I, N, D_vision) → (I, num_latents, D_vision)."""
        normed = self.latent_norm(latents)
        read = torch.cat([self.patch_norm(patch_features), normed], dim=1)
        attended = nn.functional.scaled_dot_product_attention(
            self._split(self.query(normed)), self._split(self.key(read)), self._split(self.value(read))
        )
        latents = latents + self.out(attended.transpose(1, 2).flatten(2))
        return latents + self.ffn(latents)

    def _split(self, states: Tensor) -> Tensor:
        """(I, T, heads · head_dim) → (I, heads, T, head_dim)."""
        return states.unflatten(2, self.heads).transpose(1, 2)
