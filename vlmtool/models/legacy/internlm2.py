"""InternLM2 as Llama: `wqkv` holds, for each group of heads, its queries, its key and its value.

Exact, with `rope_scaling` "linear" or "dynamic" too. Of "dynamic" beyond `max_position_embeddings` the original keeps
the base of the longest sequence that it has met; the native class takes that of the sequence at hand.

Source: InternLM2 technical report, https://arxiv.org/abs/2403.17297, section 2.2, and its published config.json.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from vlmtool.models.legacy.map import LegacyMap, Modules
from vlmtool.models.legacy.settings import common, plain_rope


def native_config(said: Mapping[str, Any]) -> LlamaConfig:
    """The Llama of an InternLM2's config.json.

    Raises:
        ValueError: rotary embeddings that have no native form. KeyError: a size is missing.
    """
    return LlamaConfig(
        vocab_size=said["vocab_size"],
        hidden_size=said["hidden_size"],
        intermediate_size=said["intermediate_size"],
        num_hidden_layers=said["num_hidden_layers"],
        num_attention_heads=said["num_attention_heads"],
        num_key_value_heads=said.get("num_key_value_heads"),
        hidden_act=said.get("hidden_act", "silu"),
        max_position_embeddings=said.get("max_position_embeddings", 2048),
        rms_norm_eps=said.get("rms_norm_eps", 1e-6),
        attention_bias=bool(said.get("bias", True)),  # on wqkv and wo, as Llama has it
        rope_parameters=_rope(said.get("rope_theta", 10000), said.get("rope_scaling")),
        **common(said),
    )


def _rope(theta: float, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
    if scaling is None:
        return plain_rope(theta)
    kind, factor = scaling.get("type", scaling.get("rope_type")), scaling.get("factor")
    if kind not in ("linear", "dynamic") or not isinstance(factor, int | float) or factor < 1:
        raise ValueError(
            f"rope_scaling = {dict(scaling)}: not known.\n"
            "It has a type, 'linear' or 'dynamic', and a factor of 1 or more."
        )
    return plain_rope(theta) | {"rope_type": kind, "factor": float(factor)}


def grouped_rows(num_heads: int, num_key_value_heads: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the queries, keys and values in a projection that has, for each key-value head, its queries, key, value.

    Returns:
        Row numbers (num_heads * head_dim), (num_key_value_heads * head_dim) and the same.
    """
    per_group = num_heads // num_key_value_heads
    rows = torch.arange((num_heads + 2 * num_key_value_heads) * head_dim)
    groups = rows.view(num_key_value_heads, per_group + 2, head_dim)
    return groups[:, :per_group].flatten(), groups[:, per_group].flatten(), groups[:, per_group + 1].flatten()


def native_modules(config: LlamaConfig) -> Modules:
    """Where InternLM2's modules go; `w1` is the gate, `w3` the other input projection, `w2` the output."""
    query, key, value = grouped_rows(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    layer = "model.layers.*"
    return {
        "model.tok_embeddings": {"model.embed_tokens": None},
        "model.norm": {"model.norm": None},
        "output": {"lm_head": None},
        f"{layer}.attention_norm": {f"{layer}.input_layernorm": None},
        f"{layer}.ffn_norm": {f"{layer}.post_attention_layernorm": None},
        f"{layer}.attention.wqkv": {
            f"{layer}.self_attn.q_proj": query,
            f"{layer}.self_attn.k_proj": key,
            f"{layer}.self_attn.v_proj": value,
        },
        f"{layer}.attention.wo": {f"{layer}.self_attn.o_proj": None},
        f"{layer}.feed_forward.w1": {f"{layer}.mlp.gate_proj": None},
        f"{layer}.feed_forward.w2": {f"{layer}.mlp.down_proj": None},
        f"{layer}.feed_forward.w3": {f"{layer}.mlp.up_proj": None},
    }


INTERNLM2 = LegacyMap(
    name="InternLM2",
    model_types=("internlm2",),
    model=LlamaForCausalLM,
    config=native_config,
    modules=native_modules,
    dead=("model.layers.*.attention.rotary_emb.inv_freq",),
)
