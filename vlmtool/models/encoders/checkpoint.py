"""Which class of transformers reads an image encoder's checkpoint."""

from pathlib import Path

from transformers import (
    AutoConfig,
    CLIPVisionModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    Siglip2VisionModel,
    SiglipVisionModel,
)

from vlmtool.utils.errors import UsageError, did_you_mean
from vlmtool.utils.remote_code import hub_kernel, needs_remote_code

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
        model_type = AutoConfig.from_pretrained(path, trust_remote_code=False).model_type
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
