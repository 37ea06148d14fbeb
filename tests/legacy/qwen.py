"""Qwen v1 (1.8B to 72B): `c_attn` holds q, k and v one after the other, with a bias; no other layer has one.

MLP: c_proj(w1(x) * silu(w2(x))): w2 is the gate. Both are intermediate_size / 2 wide. The published rotary_pct is 1:
all dimensions of a head rotate. Within seq_length tokens logn attention multiplies queries by 1 and the dynamic NTK
factor is 1; beyond it both act, and this reference does not hold. max_position_embeddings may be larger (32768 beside
8192 in Qwen-7B): it is no limit of the plain form.
Source: https://arxiv.org/abs/2309.16609, sections 2.3 and 2.4; modeling_qwen.py of Qwen/Qwen-7B.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tests.legacy.parts import CONTEXT, VOCABULARY, RMSNorm, causal_attention, rotary_angles, rotate_halves


def make_config(num_layers: int = 2, rope_theta: float = 10000, tie_word_embeddings: bool = False) -> dict[str, Any]:
    """The fields of Qwen/Qwen-7B's config.json."""
    return {
        "architectures": ["QWenLMHeadModel"],
        "auto_map": {
            "AutoConfig": "configuration_qwen.QWenConfig",
            "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
        },
        "attn_dropout_prob": 0.0,
        "bf16": False,
        "emb_dropout_prob": 0.0,
        "fp16": False,
        "fp32": False,
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 384,
        "kv_channels": 32,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": 4 * CONTEXT,
        "model_type": "qwen",
        "no_bias": True,
        "num_attention_heads": 4,
        "num_hidden_layers": num_layers,
        "onnx_safe": None,
        "rotary_emb_base": rope_theta,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": CONTEXT,
        "tie_word_embeddings": tie_word_embeddings,
        "tokenizer_class": "QWenTokenizer",
        "transformers_version": "4.32.0",
        "use_cache": True,
        "use_dynamic_ntk": True,
        "use_flash_attn": "auto",
        "use_logn_attn": True,
        "vocab_size": VOCABULARY,
    }


class Attention(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.head_dim = config["kv_channels"]
        width = self.head_dim * config["num_attention_heads"]
        self.c_attn = nn.Linear(config["hidden_size"], 3 * width)
        self.c_proj = nn.Linear(width, config["hidden_size"], bias=not config["no_bias"])

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        query, key, value = self.c_attn(x).unflatten(-1, (3, -1, self.head_dim)).unbind(2)
        return self.c_proj(causal_attention(rotate_halves(query, angles), rotate_halves(key, angles), value))


class MLP(nn.Module):
    def __init__(self, hidden_size: int, width: int, bias: bool) -> None:
        super().__init__()
        self.w1 = nn.Linear(hidden_size, width, bias=bias)
        self.w2 = nn.Linear(hidden_size, width, bias=bias)
        self.c_proj = nn.Linear(width, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.w2(x)
        return self.c_proj(self.w1(x) * gate * gate.sigmoid())


class Layer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden_size, eps = config["hidden_size"], config["layer_norm_epsilon"]
        self.ln_1 = RMSNorm(hidden_size, eps)
        self.attn = Attention(config)
        self.ln_2 = RMSNorm(hidden_size, eps)
        self.mlp = MLP(hidden_size, config["intermediate_size"] // 2, bias=not config["no_bias"])

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x), angles)
        return x + self.mlp(self.ln_2(x))


class Qwen(nn.Module):
    """input_ids (B, T) -> logits (B, T, V); `positions` (T,) are 0 .. T - 1 unless given."""

    output_key = "lm_head.weight"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden_size = config["hidden_size"]
        self.head_dim, self.theta = config["kv_channels"], config["rotary_emb_base"]
        self.transformer = nn.Module()
        self.transformer.wte = nn.Embedding(config["vocab_size"], hidden_size)
        self.transformer.h = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.transformer.ln_f = RMSNorm(hidden_size, config["layer_norm_epsilon"])
        self.lm_head = nn.Linear(hidden_size, config["vocab_size"], bias=False)
        if config["tie_word_embeddings"]:
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, input_ids: Tensor, positions: Tensor | None = None) -> Tensor:
        if positions is None:
            positions = torch.arange(input_ids.shape[1])
        angles = rotary_angles(positions, self.head_dim, self.theta)
        x = self.transformer.wte(input_ids)
        for layer in self.transformer.h:
            x = layer(x, angles)
        return self.lm_head(self.transformer.ln_f(x))
