"""BLIP-2's Q-Former, by the names of transformers and of LAVIS. The rest of a BLIP-2 is parts of other models.

Source: BLIP-2, https://arxiv.org/abs/2301.12597; names of https://github.com/salesforce/LAVIS.
"""

from collections.abc import Mapping
from typing import Any

from transformers import Blip2QFormerConfig

from vlmtool.models.imports.names import COMPUTED, Left, rules

_ENCODER = Left("the image encoder, which the recipe names itself (vision_encoder.path)")
_LLM = Left("the language model, which the recipe names itself (llm.path)")
_TEXT = Left("the Q-Former's reading of text, which a projector does not do")
_STAGE_1 = Left("of BLIP-2's first stage, which is not trained here")
_LAYER = r"encoder\.layer\.(\d+)\."

HF_RULES = rules(
    COMPUTED,
    (rf"(?:qformer\.)?{_LAYER}(?:intermediate|output)\.", _TEXT),
    (r"query_tokens$", "projector.query_tokens"),
    (r"qformer\.", "projector.qformer."),
    (r"vision_model\.post_layernorm\.", "projector.ln_vision."),
    (r"language_projection\.", "projector.language_projection."),
    (rf"(?={_LAYER})|(?=layernorm\.)", "projector.qformer."),  # a Q-Former that was saved alone
    (r"vision_model\.", _ENCODER),
    (r"language_model\.", _LLM),
    (r"embeddings\.", _TEXT),
    (r"(?:vision_projection|text_projection|itm_head)\.", _STAGE_1),
)
_BERT = rf"Qformer\.bert\.{_LAYER}"
LAVIS_RULES = rules(
    (rf"{_BERT}(attention|crossattention)\.self\.", r"projector.qformer.encoder.layer.\1.\2.attention."),
    (rf"{_BERT}(?=(?:attention|crossattention)\.output\.|\w+_query\.)", r"projector.qformer.encoder.layer.\1."),
    (r"Qformer\.bert\.embeddings\.LayerNorm\.", "projector.qformer.layernorm."),
    (r"query_tokens$", "projector.query_tokens"),
    (r"ln_vision\.", "projector.ln_vision."),
    (r"(?:opt|t5|llm|llama)_proj\.", "projector.language_projection."),
    (r"Qformer\.bert\.", _TEXT),
    (r"visual_encoder\.", _ENCODER),
    (r"(?:opt|t5|llm|llama)_model\.", _LLM),
    (r"(?:Qformer\.cls|vision_proj|text_proj|itm_head)\.|temp$", _STAGE_1),
)
_OPTIONS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "cross_attention_frequency",
    "hidden_act",
)  # fmt: skip


def hf_options(said: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `QFormerProjector` from the config.json of a BLIP-2, or of its Q-Former alone."""
    inner = said.get("qformer_config", said)
    config = Blip2QFormerConfig(**{name: inner[name] for name in _OPTIONS if name in inner})
    queries = {"num_queries": said["num_query_tokens"]} if "num_query_tokens" in said else {}
    return {**{name: getattr(config, name) for name in _OPTIONS}, **queries}
