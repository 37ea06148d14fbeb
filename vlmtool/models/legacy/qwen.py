"""Qwen (the first) as Qwen2: `c_attn` holds queries, keys and values one after the other.

Exact up to `seq_length` tokens, which is what `max_position_embeddings` says then: beyond it `use_dynamic_ntk` and
`use_logn_attn` change the base and scale the queries in the original, for which Qwen2 has no form.

Source: Qwen technical report, https://arxiv.org/abs/2309.16609, section 2.3, and its published config.json.
"""

from collections.abc import Mapping
from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM

from vlmtool.models.legacy.map import LegacyMap, Modules
from vlmtool.models.legacy.settings import check_switches, common, plain_rope

# What Qwen2 computes, with and without these keys.
_SWITCHES = {
    "visual": None,  # Qwen-VL
    "no_bias": True,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "emb_dropout_prob": 0.0,
    "rope_scaling": None,
}


def native_config(said: Mapping[str, Any]) -> Qwen2Config:
    """The Qwen2 of a Qwen's config.json, whose `intermediate_size` counts both input projections of the FFN.

    Raises:
        ValueError: a switch without native form. KeyError: a size is missing.
    """
    hidden_size, heads = said["hidden_size"], said["num_attention_heads"]
    check_switches(said, {**_SWITCHES, "kv_channels": hidden_size // heads, "num_key_value_heads": heads})
    return Qwen2Config(
        vocab_size=said["vocab_size"],
        hidden_size=hidden_size,
        intermediate_size=said["intermediate_size"] // 2,
        num_hidden_layers=said["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=heads,
        hidden_act="silu",
        max_position_embeddings=said["seq_length"],
        rms_norm_eps=said.get("layer_norm_epsilon", 1e-6),
        attention_dropout=said.get("attn_dropout_prob", 0.0),
        rope_parameters=plain_rope(said.get("rotary_emb_base", 10000)),
        **common(said),
    )


def native_modules(config: Qwen2Config) -> Modules:
    """Where Qwen's modules go; `w2` is the gate, which the activation is on, and `w1` the other input projection."""
    old, new, size = "transformer.h.*", "model.layers.*", config.hidden_size
    return {
        "transformer.wte": {"model.embed_tokens": None},
        "transformer.ln_f": {"model.norm": None},
        "lm_head": {"lm_head": None},
        f"{old}.ln_1": {f"{new}.input_layernorm": None},
        f"{old}.ln_2": {f"{new}.post_attention_layernorm": None},
        f"{old}.attn.c_attn": {
            f"{new}.self_attn.q_proj": slice(0, size),
            f"{new}.self_attn.k_proj": slice(size, 2 * size),
            f"{new}.self_attn.v_proj": slice(2 * size, None),
        },
        f"{old}.attn.c_proj": {f"{new}.self_attn.o_proj": None},
        f"{old}.mlp.w1": {f"{new}.mlp.up_proj": None},
        f"{old}.mlp.w2": {f"{new}.mlp.gate_proj": None},
        f"{old}.mlp.c_proj": {f"{new}.mlp.down_proj": None},
    }


QWEN = LegacyMap(
    name="Qwen",
    model_types=("qwen",),
    model=Qwen2ForCausalLM,
    config=native_config,
    modules=native_modules,
    dead=("transformer.rotary_emb.inv_freq", "transformer.h.*.attn.rotary_emb.inv_freq"),
)
