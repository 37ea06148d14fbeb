"""Xmodel_LM-1.1B: Llama with grouped queries (32 heads, 4 of keys and values), no bias, untied, RMSNorm 1e-5.

config.json names no rotary base: the code's default is 10000. Its rotary embedding keeps `inv_freq` as a persistent
buffer, so the published shards hold it.
Source: https://arxiv.org/abs/2406.02856; https://github.com/XiaoduoAILab/XmodelLM, models/config.json;
https://github.com/XiaoduoAILab/XmodelVLM, xmodelvlm/model/modeling_xmodel.py.
"""

from typing import Any

from tests.legacy.llama_like import LlamaLike
from tests.legacy.parts import CONTEXT, VOCABULARY

ROPE_THETA = 10000


def make_config(num_layers: int = 2, kv_heads: int = 2, tie_word_embeddings: bool = False) -> dict[str, Any]:
    """The fields of XmodelLM's config.json."""
    return {
        "architectures": ["XModelForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_xmodel.XModelConfig",
            "AutoModelForCausalLM": "modeling_xmodel.XModelForCausalLM",
        },
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 320,
        "max_position_embeddings": CONTEXT,
        "model_type": "xmodel",
        "num_attention_heads": 16,
        "num_hidden_layers": num_layers,
        "num_key_value_heads": kv_heads,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tie_word_embeddings,
        "transformers_version": "4.38.1",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


class Xmodel(LlamaLike):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config, bias=False, theta=ROPE_THETA)
