"""Xmodel_LM as Llama; the names are the same, and the rotary base is always 10000. Exact at every length.

Source: Xmodel-LM technical report, https://arxiv.org/abs/2406.02856, and its published configuration.
"""

from collections.abc import Mapping
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from vlmtool.models.legacy.map import LLAMA_MODULES, LegacyMap, Modules
from vlmtool.models.legacy.settings import check_switches, common, plain_rope

_MULTIPLE = 256  # to which the FFN's size is rounded up where config.json has none


def native_config(said: Mapping[str, Any]) -> LlamaConfig:
    """The Llama of an Xmodel's config.json.

    Raises:
        ValueError: a switch without native form. KeyError: a size is missing.
    """
    check_switches(said, {"rope_theta": 10000, "rope_scaling": None, "attention_bias": False, "mlp_bias": False})
    wanted = int(8 * said["hidden_size"] / 3)
    return LlamaConfig(
        vocab_size=said["vocab_size"],
        hidden_size=said["hidden_size"],
        intermediate_size=said.get("intermediate_size") or -(-wanted // _MULTIPLE) * _MULTIPLE,
        num_hidden_layers=said["num_hidden_layers"],
        num_attention_heads=said["num_attention_heads"],
        num_key_value_heads=said.get("num_key_value_heads", 32),
        hidden_act=said.get("hidden_act", "silu"),
        max_position_embeddings=said.get("max_position_embeddings", 32768),
        rms_norm_eps=said.get("rms_norm_eps", 1e-5),
        rope_parameters=plain_rope(10000),
        **common(said),
    )


def native_modules(_: LlamaConfig) -> Modules:
    """Every module under its own name."""
    return LLAMA_MODULES


XMODEL = LegacyMap(
    name="Xmodel_LM",
    model_types=("xmodel", "xmodel_32000"),
    model=LlamaForCausalLM,
    config=native_config,
    modules=native_modules,
    dead=("model.layers.*.self_attn.rotary_emb.inv_freq",),
)
