"""ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B: multi-query attention in groups, half of each head rotated in pairs.

Rows of `query_key_value`: the heads' queries, then the groups' keys, then the groups' values, with a bias. Rotary
embedding on the first kv_channels / 2 dimensions of a head, pairs (2i, 2i + 1). `dense_h_to_4h` holds gate and up,
gate first. Norms are RMSNorm before attention and MLP and after the last layer; residuals start before the norm.
The 32k models have a rope_ratio r: ChatGLM3-6B-32k (and GLM-4) rotates with base 10000 * r, ChatGLM2-6B-32k divides
the positions by r instead. Only the remote code, and the name in config.json, tell them apart:
https://github.com/ztxz16/fastllm/issues/374. The stored `inv_freq` has base 10000 in both and is not used.
Source: GLM-4, https://arxiv.org/abs/2406.12793, section 2; modeling_chatglm.py of THUDM/chatglm2-6b and chatglm3-6b.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tests.legacy.parts import (
    CONTEXT,
    VOCABULARY,
    RMSNorm,
    causal_attention,
    inverse_frequencies,
    rotary_angles,
    rotate_pairs,
)

ROPE_THETA = 10000


def make_config(
    num_layers: int = 2,
    kv_heads: int = 2,
    rope_ratio: float | None = None,
    tie_word_embeddings: bool = False,
    version: int = 3,
) -> dict[str, Any]:
    """The fields of THUDM/chatglm{version}-6b's config.json; with `rope_ratio`, those of its 32k model."""
    config = {
        "_name_or_path": f"THUDM/chatglm{version}-6b{'' if rope_ratio is None else '-32k'}",
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
            "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
            "AutoModelForSeq2SeqLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
            "AutoModelForSequenceClassification": "modeling_chatglm.ChatGLMForSequenceClassification",
        },
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": 192,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": 128,
        "kv_channels": 16,
        "layernorm_epsilon": 1e-5,
        "multi_query_attention": True,
        "multi_query_group_num": kv_heads,
        "num_attention_heads": 8,
        "num_layers": num_layers,
        "original_rope": True,
        "padded_vocab_size": VOCABULARY,
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": CONTEXT,
        "use_cache": True,
        "transformers_version": "4.30.2",
        "tie_word_embeddings": tie_word_embeddings,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return config if rope_ratio is None else {**config, "rope_ratio": rope_ratio}


class Attention(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.head_dim = config["kv_channels"]
        self.num_heads, self.groups = config["num_attention_heads"], config["multi_query_group_num"]
        rows = (self.num_heads + 2 * self.groups) * self.head_dim
        self.query_key_value = nn.Linear(config["hidden_size"], rows, bias=config["add_qkv_bias"])
        self.dense = nn.Linear(self.num_heads * self.head_dim, config["hidden_size"], bias=config["add_bias_linear"])

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        heads = self.query_key_value(x).unflatten(-1, (-1, self.head_dim))
        query, key, value = heads.split([self.num_heads, self.groups, self.groups], dim=2)
        return self.dense(causal_attention(rotate_pairs(query, angles), rotate_pairs(key, angles), value))


class MLP(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden_size, width, bias = config["hidden_size"], config["ffn_hidden_size"], config["add_bias_linear"]
        self.dense_h_to_4h = nn.Linear(hidden_size, 2 * width, bias=bias)
        self.dense_4h_to_h = nn.Linear(width, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.dense_h_to_4h(x).chunk(2, dim=-1)
        return self.dense_4h_to_h(gate * gate.sigmoid() * up)


class Layer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden_size, eps = config["hidden_size"], config["layernorm_epsilon"]
        self.input_layernorm = RMSNorm(hidden_size, eps)
        self.self_attention = Attention(config)
        self.post_attention_layernorm = RMSNorm(hidden_size, eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.self_attention(self.input_layernorm(x), angles)
        return x + self.mlp(self.post_attention_layernorm(x))


class ChatGLM(nn.Module):
    """input_ids (B, T) -> logits (B, T, V); `positions` (T,) are 0 .. T - 1 unless given."""

    output_key = "transformer.output_layer.weight"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden_size, vocabulary = config["hidden_size"], config["padded_vocab_size"]
        ratio, interpolates = config.get("rope_ratio", 1), "chatglm2" in config["_name_or_path"]
        self.rotary_dim = config["kv_channels"] // 2
        self.theta, self.position_divisor = (ROPE_THETA, ratio) if interpolates else (ROPE_THETA * ratio, 1)
        self.transformer = nn.Module()
        self.transformer.embedding = nn.Module()
        self.transformer.embedding.word_embeddings = nn.Embedding(vocabulary, hidden_size)
        self.transformer.rotary_pos_emb = nn.Module()
        self.transformer.rotary_pos_emb.register_buffer("inv_freq", inverse_frequencies(self.rotary_dim, ROPE_THETA))
        self.transformer.encoder = nn.Module()
        self.transformer.encoder.layers = nn.ModuleList(Layer(config) for _ in range(config["num_layers"]))
        self.transformer.encoder.final_layernorm = RMSNorm(hidden_size, config["layernorm_epsilon"])
        self.transformer.output_layer = nn.Linear(hidden_size, vocabulary, bias=config["add_bias_linear"])
        if config["tie_word_embeddings"]:
            self.transformer.output_layer.weight = self.transformer.embedding.word_embeddings.weight

    def forward(self, input_ids: Tensor, positions: Tensor | None = None) -> Tensor:
        if positions is None:
            positions = torch.arange(input_ids.shape[1])
        angles = rotary_angles(positions / self.position_divisor, self.rotary_dim, self.theta)
        x = self.transformer.embedding.word_embeddings(input_ids)
        for layer in self.transformer.encoder.layers:
            x = layer(x, angles)
        return self.transformer.output_layer(self.transformer.encoder.final_layernorm(x))
