"""The layout of LLaVA's own repository: one causal language model that holds projector and image encoder.

Source: https://github.com/haotian-liu/LLaVA (Llama, Mistral), https://github.com/LLaVA-VL/LLaVA-NeXT (Qwen2, Gemma).
"""

from collections.abc import Mapping
from typing import Any

from vlmtool.convert.layouts.early import early_words

# model_type of the LLM → model_type of the whole, and its class.
MODELS = {
    "llama": ("llava_llama", "LlavaLlamaForCausalLM"),
    "mistral": ("llava_mistral", "LlavaMistralForCausalLM"),
    "qwen2": ("llava_qwen", "LlavaQwenForCausalLM"),
    "gemma": ("llava_gemma", "LlavaGemmaForCausalLM"),
}
ACT = "gelu"  # of the projector, the only one

PROJECTOR = {"model": "model.mm_projector"}
VISION_ENCODER = {"vision_model": "model.vision_tower.vision_tower.vision_model"}


def model_config(
    llm: Mapping[str, Any],
    encoder: str,
    encoder_width: int,
    is_encoder_trained: bool,
    select_layer: int,
    keeps_cls: bool,
    depth: int,
    pad_to_square: bool,
    max_length: int,
    dtype: str,
) -> dict[str, Any]:
    """The content of config.json.

    Args:
        llm: the same of the language model.
        encoder: folder or hub id of the image encoder's base, where its image processor is taken from.
        encoder_width: D_vision.
        is_encoder_trained: its weights stand in this folder.
        keeps_cls: the projector reads the CLS token too.
        depth: linear layers of the projector.
        max_length: tokens that a sample had at most.
        dtype: "float16", …
    """
    model_type, cls = MODELS[str(llm["model_type"])]
    return {
        **early_words(llm, dtype),
        "architectures": [cls],
        "model_type": model_type,
        "use_mm_proj": True,
        "mm_projector_type": f"mlp{depth}x_gelu",
        "mm_hidden_size": encoder_width,
        "mm_vision_tower": encoder,
        "mm_vision_select_layer": select_layer,
        "mm_vision_select_feature": "cls_patch" if keeps_cls else "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        # Else LLaVA takes the encoder from its base and leaves the weights of this folder unread.
        "unfreeze_mm_vision_tower": is_encoder_trained,
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
        "image_aspect_ratio": "pad" if pad_to_square else "square",
        "tokenizer_model_max_length": max_length,
        "tokenizer_padding_side": "right",
    }
