"""Which class of transformers reads an image encoder's checkpoint."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    CLIPVisionModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2VisionModel,
    SiglipVisionModel,
)

from vlmtool.models.imports.vlm import ENCODER, find_vlm
from vlmtool.models.legacy.map import checked_state
from vlmtool.utils.errors import UsageError, did_you_mean
from vlmtool.utils.remote_code import hub_kernel, needs_remote_code

_FRONT = "vision_model."
# model_type in config.json → class. A checkpoint of the whole CLIP or SigLIP gives its vision half. SigLIP 2 of one
# size is a "siglip"; a "siglip2" is of native resolution.
VISION_CLASSES: dict[str, type[PreTrainedModel]] = {
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
    "siglip": SiglipVisionModel,
    "siglip_vision_model": SiglipVisionModel,
    "siglip2": Siglip2VisionModel,
    "siglip2_vision_model": Siglip2VisionModel,
    "dinov2": Dinov2Model,
    "dinov2_with_registers": Dinov2WithRegistersModel,
}


def vision_class(path: Path) -> type[PreTrainedModel]:
    """The transformers class that serves the checkpoint; code that it brings is never run.

    Raises:
        UsageError: none of ours does, or it needs such code.
    """
    check_no_kernel(path)
    try:
        # False, not None: with None transformers asks at the terminal, and runs the code on "y".
        inner = vision_config(path)
        model_type = (inner or AutoConfig.from_pretrained(path, trust_remote_code=False)).model_type
    except ValueError as error:
        if needs_remote_code(error):
            raise UsageError(
                f"{path}: this image encoder needs code of its own, which vlmtool does not run.\nKnown: {_known()}."
            ) from error
        raise
    if model_type not in VISION_CLASSES:
        raise UsageError(
            f"{path}: a '{model_type}' is not an image encoder that vlmtool knows."
            f"{did_you_mean(model_type, VISION_CLASSES)}\n"
            f"Known: {_known()}. A class of your own reads others: vision_encoder.type (docs/extending.md)."
        )
    return VISION_CLASSES[model_type]


def vision_config(path: Path) -> PreTrainedConfig | None:
    """Of the encoder inside a whole vision-language model; None of any other checkpoint.

    Raises:
        UsageError: the model names its encoder, which lies elsewhere.
    """
    vlm = find_vlm(path)
    if vlm is not None and vlm.facts.vision_config is None:
        raise UsageError(
            f"{path}: this model's image encoder is not in its folder; it names '{vlm.facts.tower}'.\n"
            "Give that one: vision_encoder.path or --visual-encoder."
        )
    return vlm.facts.vision_config if vlm is not None else None


def inner_weights(path: Path, cls: type[PreTrainedModel]) -> dict[str, Tensor] | None:
    """Weights of the encoder inside a whole vision-language model, by the names of its class; None as above.

    Raises:
        CheckpointError: they are not all there.
    """
    vlm, config = find_vlm(path), vision_config(path)
    if vlm is None or config is None:
        return None
    return checked_state(cls, config, native_names(vlm.state(ENCODER), cls, config), path)


def native_names(
    state: Mapping[str, Tensor], cls: type[PreTrainedModel], config: PreTrainedConfig
) -> dict[str, Tensor]:
    """Weights of an encoder by the names of its class: older files have a `vision_model.` in front."""
    with torch.device("meta"):
        wanted = cls(config).state_dict().keys()
    return {own_name(name, wanted): value for name, value in state.items()}


def own_name(name: str, wanted: Collection[str], prefix: str = "") -> str:
    """The one of `wanted` that is `name` with or without `vision_model.` after `prefix`; `name` where there is none."""
    bare = name.removeprefix(prefix)
    forms = (bare, bare.removeprefix(_FRONT), _FRONT + bare)
    return next((prefix + form for form in forms if prefix + form in wanted), name)


def check_no_kernel(path: Path) -> None:
    """The config does not send for code.

    Raises:
        UsageError: it does.
    """
    if (kernel := hub_kernel(path)) is not None:
        raise UsageError(
            f"{path}: its config.json asks for code from the hub, '{kernel}', which vlmtool does not run.\n"
            "Take that implementation out of config.json."
        )


def _known() -> str:
    return ", ".join(sorted({c.__name__ for c in VISION_CLASSES.values()}))
