"""ChatGLM2, ChatGLM3 and GLM-4-9B in the form with code of its own, as Glm.

Exact at every length. Half of each head is rotated, in pairs of neighbours, as Glm does. ChatGLM-6B, the first, has no
native class.

Source: GLM-130B, https://arxiv.org/abs/2210.02414, ChatGLM, https://arxiv.org/abs/2406.12793, and the published
config.json files.
"""

from collections.abc import Mapping
from typing import Any

from transformers import GlmConfig, GlmForCausalLM

from vlmtool.models.legacy.internlm2 import grouped_rows
from vlmtool.models.legacy.map import LegacyMap, Modules, Rows
from vlmtool.models.legacy.settings import check_switches, common, plain_rope

# What Glm computes, with and without these keys.
_SWITCHES = {
    "vision_config": None,  # GLM-4V
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "interleaved_qkv": False,
    "original_rope": True,
    "post_layer_norm": True,
    "pre_seq_len": None,
    "quantization_bit": 0,
    "rmsnorm": True,
    "rope_scaling": None,
}
_CHATGLM_VOCABULARY = 65024  # of ChatGLM2 and ChatGLM3; that of GLM-4 is larger
_FIRST = ("position_encoding_2d", "inner_hidden_size", "max_sequence_length")  # keys of ChatGLM-6B alone


def native_config(said: Mapping[str, Any]) -> GlmConfig:
    """The Glm of a ChatGLM's config.json.

    Raises:
        ValueError: ChatGLM-6B, or a switch without native form. KeyError: a size is missing.
    """
    if "num_layers" in said and any(key in said for key in _FIRST) and "padded_vocab_size" not in said:
        raise ValueError(
            "this is ChatGLM-6B, the first, which has no native class.\nUse ChatGLM2-6B, ChatGLM3-6B or GLM-4-9B."
        )
    check_switches(said, _SWITCHES)
    heads = said["num_attention_heads"]
    config = GlmConfig(
        vocab_size=said["padded_vocab_size"],
        hidden_size=said["hidden_size"],
        intermediate_size=said["ffn_hidden_size"],
        num_hidden_layers=said["num_layers"],
        num_attention_heads=heads,
        num_key_value_heads=_groups(said, heads),
        head_dim=said.get("kv_channels") or said["hidden_size"] // heads,
        max_position_embeddings=said["seq_length"],
        rms_norm_eps=said.get("layernorm_epsilon", 1e-5),
        attention_bias=bool(said.get("add_qkv_bias", False)),
        attention_dropout=said.get("attention_dropout", 0.0),
        rope_parameters={**_rope(said), "partial_rotary_factor": 0.5},
        **common(said),
    )
    config.eos_token_id = said.get("eos_token_id")  # else Glm takes those of GLM-4
    return config


def _rope(said: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_ratio` divides the positions of ChatGLM2-6B-32K, and multiplies the base of every other model.

    Nothing but the name tells the two apart: the code that reads the key is beside the published config.json.
    """
    ratio, name = float(said.get("rope_ratio") or 1), str(said.get("_name_or_path", "")).lower()
    if ratio == 1:
        return plain_rope(10000)
    if "chatglm2" in name:
        return plain_rope(10000) | {"rope_type": "linear", "factor": ratio}
    if "chatglm3" in name or "glm-4" in name or said["padded_vocab_size"] > _CHATGLM_VOCABULARY:
        return plain_rope(10000 * ratio)
    raise ValueError(
        f"rope_ratio = {said['rope_ratio']}: ChatGLM2 and ChatGLM3 compute different things of it.\n"
        'Say which of the two it is in config.json: "_name_or_path": "THUDM/chatglm3-6b-32k".'
    )


def _groups(said: Mapping[str, Any], heads: int) -> int:
    """Key-value heads; as many as heads means the layout of attention without groups."""
    if not said.get("multi_query_attention", False):
        return heads
    groups = int(said["multi_query_group_num"])
    if groups == heads:
        raise ValueError(f"multi_query_group_num = {groups}: as many as heads.\nNo published ChatGLM has that.")
    return groups


def native_modules(config: GlmConfig) -> Modules:
    """Where ChatGLM's modules go; `dense_h_to_4h` is gate and up in the order that Glm has them in."""
    old, new = "transformer.encoder.layers.*", "model.layers.*"
    return {
        "transformer.embedding.word_embeddings": {"model.embed_tokens": None},
        "transformer.encoder.final_layernorm": {"model.norm": None},
        "transformer.output_layer": {"lm_head": None},
        f"{old}.input_layernorm": {f"{new}.input_layernorm": None},
        f"{old}.post_attention_layernorm": {f"{new}.post_attention_layernorm": None},
        f"{old}.self_attention.query_key_value": {
            f"{new}.self_attn.{name}_proj": rows for name, rows in zip("qkv", _rows(config), strict=True)
        },
        f"{old}.self_attention.dense": {f"{new}.self_attn.o_proj": None},
        f"{old}.mlp.dense_h_to_4h": {f"{new}.mlp.gate_up_proj": None},
        f"{old}.mlp.dense_4h_to_h": {f"{new}.mlp.down_proj": None},
    }


def _rows(config: GlmConfig) -> tuple[Rows, Rows, Rows]:
    """All queries, then all keys, then all values; without groups the three of each head together."""
    heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    if heads == groups:
        return grouped_rows(heads, groups, size)
    first, second = heads * size, (heads + groups) * size
    return slice(0, first), slice(first, second), slice(second, None)


CHATGLM = LegacyMap(
    name="ChatGLM",
    model_types=("chatglm",),
    model=GlmForCausalLM,
    config=native_config,
    modules=native_modules,
    dead=("transformer.rotary_pos_emb.inv_freq",),
)
