"""InternLM2 and InternLM2.5: one fused projection `wqkv`, whose rows are grouped by the head of keys and values.

Rows of `wqkv`: (kv_heads, q_per_kv + 2, head_dim); of each group first its queries, then its key, then its value.
MLP: w2(silu(w1(x)) * w3(x)). "bias" adds one to `wqkv` and `wo`; every published model has false.
"rope_scaling": {"type": "dynamic"} acts only beyond max_position_embeddings tokens: this reference holds up to there.
Source: https://arxiv.org/abs/2403.17297, section 2.2; modeling_internlm2.py of internlm/internlm2-chat-7b.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tests.legacy.parts import CONTEXT, VOCABULARY, RMSNorm, causal_attention, rotary_angles, rotate_halves


def make_config(
    num_layers: int = 2,
    kv_heads: int = 2,
    rope_theta: float = 1000000,
    tie_word_embeddings: bool = False,
    bias: bool = False,
) -> dict[str, Any]:
    """The fields of internlm/internlm2-chat-1_8b's config.json."""
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "attn_implementation": "eager",
        "auto_map": {
            "AutoConfig": "configuration_internlm2.InternLM2Config",
            "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
            "AutoModel": "modeling_internlm2.InternLM2ForCausalLM",
        },
        "bias": bias,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 192,
        "max_position_embeddings": CONTEXT,
        "model_type": "internlm2",
        "num_attention_heads": 8,
        "num_hidden_layers": num_layers,
        "num_key_value_heads": kv_heads,
        "pad_token_id": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "rope_theta": rope_theta,
        "tie_word_embeddings": tie_word_embeddings,
        "transformers_version": "4.41.0",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


class Attention(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden_size, num_heads = config["hidden_size"], config["num_attention_heads"]
        self.kv_heads, self.head_dim = config["num_key_value_heads"], hidden_size // num_heads
        self.wqkv = nn.Linear(hidden_size, (num_heads + 2 * self.kv_heads) * self.head_dim, bias=config["bias"])
        self.wo = nn.Linear(hidden_size, hidden_size, bias=config["bias"])

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        groups = self.wqkv(x).unflatten(-1, (self.kv_heads, -1, self.head_dim))  # (B, T, kv_heads, q_per_kv + 2, D)
        query, key, value = groups[..., :-2, :].flatten(2, 3), groups[..., -2, :], groups[..., -1, :]
        return self.wo(causal_attention(rotate_halves(query, angles), rotate_halves(key, angles), value))


class MLP(nn.Module):
    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.w3 = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.w2 = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.w1(x)
        return self.w2(gate * gate.sigmoid() * self.w3(x))


class Layer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden_size, eps = config["hidden_size"], config["rms_norm_eps"]
        self.attention = Attention(config)
        self.feed_forward = MLP(hidden_size, config["intermediate_size"])
        self.attention_norm = RMSNorm(hidden_size, eps)
        self.ffn_norm = RMSNorm(hidden_size, eps)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), angles)
        return x + self.feed_forward(self.ffn_norm(x))


class InternLM2(nn.Module):
    """input_ids (B, T) -> logits (B, T, V); `positions` (T,) are 0 .. T - 1 unless given."""

    output_key = "output.weight"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden_size = config["hidden_size"]
        self.head_dim, self.theta = hidden_size // config["num_attention_heads"], config["rope_theta"]
        self.model = nn.Module()
        self.model.tok_embeddings = nn.Embedding(config["vocab_size"], hidden_size)
        self.model.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.model.norm = RMSNorm(hidden_size, config["rms_norm_eps"])
        self.output = nn.Linear(hidden_size, config["vocab_size"], bias=False)
        if config["tie_word_embeddings"]:
            self.output.weight = self.model.tok_embeddings.weight

    def forward(self, input_ids: Tensor, positions: Tensor | None = None) -> Tensor:
        if positions is None:
            positions = torch.arange(input_ids.shape[1])
        angles = rotary_angles(positions, self.head_dim, self.theta)
        x = self.model.tok_embeddings(input_ids)
        for layer in self.model.layers:
            x = layer(x, angles)
        return self.output(self.model.norm(x))
