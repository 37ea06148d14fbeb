"""The decoder that InternLM v1 and Xmodel_LM share: Llama's structure and key names.

Source: Llama, https://arxiv.org/abs/2302.13971, section 2.2 (pre-norm with RMSNorm, SwiGLU, rotary embeddings).
"""

from typing import Any

import torch
from torch import Tensor, nn

from tests.legacy.parts import RMSNorm, causal_attention, inverse_frequencies, rotary_angles, rotate_halves


class Attention(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, kv_heads: int, bias: bool) -> None:
        super().__init__()
        self.head_dim = hidden_size // num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.k_proj = nn.Linear(hidden_size, kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(hidden_size, kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=bias)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.head_dim)) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(causal_attention(rotate_halves(query, angles), rotate_halves(key, angles), value))


class MLP(nn.Module):
    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        return self.down_proj(gate * gate.sigmoid() * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: dict[str, Any], bias: bool) -> None:
        super().__init__()
        hidden_size, eps = config["hidden_size"], config["rms_norm_eps"]
        self.self_attn = Attention(hidden_size, config["num_attention_heads"], config["num_key_value_heads"], bias)
        self.mlp = MLP(hidden_size, config["intermediate_size"])
        self.input_layernorm = RMSNorm(hidden_size, eps)
        self.post_attention_layernorm = RMSNorm(hidden_size, eps)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), angles)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaLike(nn.Module):
    """input_ids (B, T) -> logits (B, T, V); `positions` (T,) are 0 .. T - 1 unless given."""

    output_key = "lm_head.weight"

    def __init__(self, config: dict[str, Any], bias: bool, theta: float) -> None:
        super().__init__()
        hidden_size = config["hidden_size"]
        self.head_dim, self.theta = hidden_size // config["num_attention_heads"], theta
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config["vocab_size"], hidden_size)
        self.model.layers = nn.ModuleList(Layer(config, bias) for _ in range(config["num_hidden_layers"]))
        self.model.norm = RMSNorm(hidden_size, config["rms_norm_eps"])
        self.lm_head = nn.Linear(hidden_size, config["vocab_size"], bias=False)
        if config["tie_word_embeddings"]:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids: Tensor, positions: Tensor | None = None) -> Tensor:
        if positions is None:
            positions = torch.arange(input_ids.shape[1])
        angles = rotary_angles(positions, self.head_dim, self.theta)
        x = self.model.embed_tokens(input_ids)
        for layer in self.model.layers:
            x = layer(x, angles)
        return self.lm_head(self.model.norm(x))

    def bin_buffers(self) -> dict[str, Tensor]:
        """The frequencies that the published .bin shards repeat in every layer; no weight depends on them."""
        return {
            f"model.layers.{index}.self_attn.rotary_emb.inv_freq": inverse_frequencies(self.head_dim, self.theta)
            for index in range(len(self.model.layers))
        }
