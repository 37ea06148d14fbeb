"""InternLM v1 (7B, 20B): Llama with a bias on the q, k, v and o projections.

The MLP and the output layer have no bias, all heads have their own keys and values. The 20B model has no bias at all
(config.json: "bias": false). "rotary": {"type": "dynamic"} enlarges the base only beyond max_position_embeddings
tokens: this reference holds up to there.
Source: https://github.com/InternLM/InternLM, tools/transformers/modeling_internlm.py, and convert2hf.py beside it,
which writes the shards with `rotary_emb.inv_freq`.
"""

from typing import Any

from tests.legacy.llama_like import LlamaLike
from tests.legacy.parts import CONTEXT, VOCABULARY


def make_config(
    num_layers: int = 2, rope_theta: float = 10000, tie_word_embeddings: bool = False, bias: bool = True
) -> dict[str, Any]:
    """The fields of internlm/internlm-7b's config.json."""
    return {
        "architectures": ["InternLMForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_internlm.InternLMConfig",
            "AutoModel": "modeling_internlm.InternLMForCausalLM",
            "AutoModelForCausalLM": "modeling_internlm.InternLMForCausalLM",
        },
        "bias": bias,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 192,
        "max_position_embeddings": CONTEXT,
        "model_type": "internlm",
        "num_attention_heads": 4,
        "num_hidden_layers": num_layers,
        "num_key_value_heads": 4,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-6,
        "rotary": {"base": rope_theta, "type": "dynamic"},
        "tie_word_embeddings": tie_word_embeddings,
        "transformers_version": "4.33.2",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


class InternLM(LlamaLike):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config, bias=config["bias"], theta=config["rotary"]["base"])
