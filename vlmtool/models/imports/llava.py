"""LLaVA's own layout, which its descendants share: one flat config.json, names below `model.`, the encoder elsewhere.

Source: https://github.com/haotian-liu/LLaVA; MobileVLM, https://github.com/Meituan-AutoML/MobileVLM; Xmodel-VLM,
https://github.com/XiaoduoAILab/XmodelVLM.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from vlmtool.models.encoders.reading import Reading
from vlmtool.models.imports.facts import ODD, VlmFacts, native_llm, plain_layer
from vlmtool.models.imports.names import COMPUTED, Left, rules
from vlmtool.models.legacy.map import LegacyMap
from vlmtool.models.legacy.xmodel import XMODEL
from vlmtool.utils.errors import CheckpointError, message_lines
from vlmtool.utils.files import read_json_object

_MARKS = Left("embeddings of the marks around images (mm_use_im_start_end), which vlmtool does not set")
RULES = rules(
    COMPUTED,
    (r"(?:.*\.)?mm_projector\.", "projector."),
    (r"model\.image_newline$", "projector.row_end"),
    (r"model\.vision_tower\.(?:vision_tower\.)?", "vision_encoder.model."),
    (r"model\.(?!vision_|mm_|image_)", "llm.model."),
    (r"lm_head\.", "llm.lm_head."),
)
PROJECTOR_ONLY = rules((r"(?:.*\.)?mm_projector\.", "projector."), (r"(?:.*\.)?embed_tokens\.", _MARKS))
"""Of an mm_projector.bin."""

# model_type: of the language model alone. Any other `llava_NAME` is tried as NAME.
_LLMS = {"llava": "llama", "mobilevlm": "llama", "llava_qwen": "qwen2"}
_LEGACY: dict[str, LegacyMap] = {"xmodelvlm": XMODEL, "xmodel_vlm": XMODEL}
_FEATURES = {"patch": "patch", "cls_patch": "full"}


def llava_facts(folder: Path) -> VlmFacts:
    """What config.json says.

    Raises:
        CheckpointError: it cannot be read, or asks for what vlmtool does not compute.
    """
    file = folder / "config.json"
    said = read_json_object(file)
    _check(said, file)
    llm, llm_config = _llm(said, file)
    return VlmFacts(
        llm=llm,
        llm_config=llm_config,
        reading=partial_reading(said, file),
        pad_to_square=said.get("image_aspect_ratio") == "pad",
        tower=str(said.get("mm_vision_tower") or ""),
        vision_hidden_size=vision_width(said),
    )


def partial_reading(said: Mapping[str, Any], file: Path) -> Reading:
    """How the encoder is read, as far as a config.json says so; LLaVA's own defaults where it does not.

    Raises:
        CheckpointError: in a way that vlmtool does not have.
    """
    feature = said.get("mm_vision_select_feature", "patch")
    if feature not in _FEATURES:
        raise CheckpointError(f"{file}: mm_vision_select_feature = {feature}: it takes {' or '.join(_FEATURES)}.")
    return Reading(
        select_layer=plain_layer(said.get("mm_vision_select_layer", -2), "mm_vision_select_layer", file),
        select_strategy=_FEATURES[feature],
    )


def vision_width(said: Mapping[str, Any]) -> int | None:
    """D_vision, where a config.json says it."""
    width = said.get("mm_hidden_size")
    return width if isinstance(width, int) else None


def pinpoints(folder: Path) -> Any:
    """Sizes of tiled pictures; None of a model that sees them whole.

    Raises:
        CheckpointError: the tiles are put together in another way than LLaVA-NeXT's.
    """
    file = folder / "config.json"
    said = read_json_object(file)
    ratio = str(said.get("image_aspect_ratio"))
    if not ratio.startswith("anyres"):
        return None
    if ratio != "anyres" or said.get("mm_patch_merge_type") != "spatial_unpad":
        raise CheckpointError(
            f"{file}: image_aspect_ratio = {ratio}, mm_patch_merge_type = {said.get('mm_patch_merge_type')}: vlmtool "
            "puts tiles together as 'anyres' with 'spatial_unpad' does.\nTake a model that was trained so."
        )
    return said.get("image_grid_pinpoints")


def _check(said: Mapping[str, Any], file: Path) -> None:
    """See that the switches of the original are where vlmtool has them."""
    for key in ("mm_use_im_start_end", "mm_resampler_type", "quantization_config", "s2"):
        if said.get(key):
            raise CheckpointError(
                f"{file}: {key} = {str(said[key])[:60]}: vlmtool does not compute this.\nTake a model without it."
            )


def _llm(said: Mapping[str, Any], file: Path) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    model_type = str(said.get("model_type"))
    if (legacy := _LEGACY.get(model_type)) is not None:
        try:
            return legacy.model, legacy.config(said)
        except ODD as error:
            raise CheckpointError(f"{file}: {legacy.name}: {message_lines(error)[0]}") from error
    return native_llm(said, _LLMS.get(model_type, model_type.removeprefix("llava_")), file)
