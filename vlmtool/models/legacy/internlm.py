"""InternLM v1 as Llama with biases on all four projections of the attention; the names are the same.

Exact up to `max_position_embeddings`; beyond it, where `rotary.type` is "dynamic", in a forward pass over the whole
sequence. With a cache the original turns all keys anew when the base grows, the native class only the new ones.

Source: InternLM technical report, https://github.com/InternLM/InternLM-techreport, and its published config.json.
"""

from collections.abc import Mapping
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from vlmtool.models.legacy.map import LLAMA_MODULES, LegacyMap, Modules
from vlmtool.models.legacy.settings import check_switches, common, plain_rope


def native_config(said: Mapping[str, Any]) -> LlamaConfig:
    """The Llama of an InternLM's config.json.

    Raises:
        ValueError: rotary embeddings that have no native form. KeyError: a size is missing.
    """
    heads = said["num_attention_heads"]
    check_switches(said, {"num_key_value_heads": heads})  # its attention has none but full heads
    return LlamaConfig(
        vocab_size=said["vocab_size"],
        hidden_size=said["hidden_size"],
        intermediate_size=said["intermediate_size"],
        num_hidden_layers=said["num_hidden_layers"],
        num_attention_heads=heads,
        hidden_act=said.get("hidden_act", "silu"),
        max_position_embeddings=said.get("max_position_embeddings", 2048),
        rms_norm_eps=said.get("rms_norm_eps", 1e-6),
        attention_bias=bool(said.get("bias", True)),
        rope_parameters=_rope(said.get("rotary") or {"type": "origin"}),
        **common(said),
    )


def _rope(rotary: Mapping[str, Any]) -> dict[str, Any]:
    plain, kind = plain_rope(rotary.get("base", 10000)), rotary.get("type")
    if kind == "origin":
        return plain
    if kind == "dynamic":
        return plain | {"rope_type": "dynamic", "factor": float(rotary.get("scaling_factor", 1.0))}
    raise ValueError(f"rotary.type = {kind!r}: not known.\nIt is 'origin' or 'dynamic'.")


def native_modules(_: LlamaConfig) -> Modules:
    """Every module under its own name."""
    return LLAMA_MODULES


INTERNLM = LegacyMap(
    name="InternLM",
    model_types=("internlm",),
    model=LlamaForCausalLM,
    config=native_config,
    modules=native_modules,
    dead=("model.layers.*.self_attn.rotary_emb.inv_freq",),
)
