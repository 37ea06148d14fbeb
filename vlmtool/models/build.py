"""From parts to the composed model. Each function builds one part and says what of it is trained."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from vlmtool.models.encoders.fused import Colour, FusedEncoder, beside_reading, put_beside
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import VisionEncoder, encoder_class
from vlmtool.models.llm import load_failure, load_llm
from vlmtool.models.lora import LoraSettings, add_encoder_lora, add_llm_lora
from vlmtool.models.prefix import PrefixSettings, add_prefix
from vlmtool.models.projectors.base import Projector
from vlmtool.utils.errors import CheckpointError, RecipeError, did_you_mean, shortened
from vlmtool.utils.imports import import_class, is_own, told

SHIPPED_PROJECTORS = (
    "vlmtool.models.projectors.mlp.MLPProjector",
    "vlmtool.models.projectors.linear.LinearProjector",
    "vlmtool.models.projectors.xdp.XDPProjector",
    "vlmtool.models.projectors.ldp.LDPProjector",
    "vlmtool.models.projectors.ldpv2.LDPv2Projector",
    "vlmtool.models.projectors.pixel_shuffle.PixelShuffleProjector",
    "vlmtool.models.projectors.qformer.QFormerProjector",
    "vlmtool.models.projectors.resampler.PerceiverResampler",
)
_LLAVA_MLP = re.compile(r"mlp(\d+)x_gelu")  # LLaVA's mm_projector_type


def build_llm(
    path: Path,
    dtype: torch.dtype | str,
    quantization: str | None = None,
    lora: LoraSettings | None = None,
    train_all: bool = False,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    prefix: PrefixSettings | None = None,
) -> PreTrainedModel:
    """A language model; frozen but for its adapter, unless `train_all`."""
    llm = load_llm(path, dtype, quantization, device, trust_remote_code).requires_grad_(False)
    if lora is not None:
        return add_llm_lora(llm, lora)
    if prefix is not None:
        return add_prefix(llm, prefix)
    return _trained_in_float32(llm) if train_all else llm


def build_vision_encoder(
    path: Path,
    dtype: torch.dtype | str,
    reading: Reading | None = None,
    lora: LoraSettings | None = None,
    train_all: bool = False,
    device: torch.device | str = "cpu",
) -> VisionEncoder:
    """An image encoder up to the selected layer; frozen but for its adapter, unless `train_all`."""
    reading = reading or Reading()
    weights = load_encoder_weights(path, dtype, reading.type)
    encoder = encoder_class(reading.type)(weights, reading).to(device)
    encoder.requires_grad_(False)
    if lora is not None:
        add_encoder_lora(encoder, lora)
    elif train_all:
        _trained_in_float32(encoder)
    return encoder


def build_beside(
    first: VisionEncoder,
    path: Path,
    dtype: torch.dtype | str,
    colours: tuple[Colour, Colour],
    device: torch.device | str = "cpu",
) -> FusedEncoder:
    """`first` with the encoder at `path` beside it, both frozen.

    Args:
        colours: of the two image processors.
    """
    second = load_encoder_weights(path, dtype, beside_reading(first).type)
    return put_beside(first, second, colours).to(device).requires_grad_(False)


def load_encoder_weights(path: Path, dtype: torch.dtype | str, reader: str | None = None) -> PreTrainedModel:
    """The vision model at `path`, whole.

    Args:
        reader: `Reading.type`.

    Raises:
        CheckpointError: the folder is damaged.
    """
    cls = encoder_class(reader)
    try:
        return cls.load_model(path, dtype)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(load_failure(path, error)) from error


def build_projector(
    type_name: str,
    vision_hidden_size: int,
    llm_hidden_size: int,
    options: dict[str, Any],
    freeze: bool = False,
    device: torch.device | str = "cpu",
    row_end: bool = False,
) -> Projector:
    """A projector in float32, with fresh weights.

    Args:
        type_name: dotted path of the class.
        options: arguments of the class beyond the two widths.
        row_end: with a token after each row of a tiled picture.

    Raises:
        RecipeError: no such class, it does not take these options, or would not be built again with them.
    """
    if "." not in type_name:
        raise RecipeError(_no_projector(type_name))
    cls = import_class(type_name, "projector.type")
    if not (isinstance(cls, type) and issubclass(cls, Projector)):
        raise RecipeError(
            f"projector.type = '{type_name}' is no projector.\nIts class must derive from vlmtool's Projector "
            "(docs/extending.md)."
        )
    known = [
        name for name in inspect.signature(cls).parameters if name not in ("vision_hidden_size", "llm_hidden_size")
    ]
    for name in options:
        if name not in known:
            raise RecipeError(
                f"projector: {cls.__name__} takes no '{name}'.{did_you_mean(name, known)}\n"
                f"It takes {', '.join(known) or 'none'}."
            )
    try:
        projector = cls(vision_hidden_size, llm_hidden_size, **options)
    except Exception as error:  # the class may be the user's own, which may raise anything
        reason = str(error) if is_own(cls.__module__) and isinstance(error, TypeError | ValueError) else told(error)
        raise RecipeError(f"projector: {cls.__name__} cannot be built with {options}: {reason}") from error
    _check_options(projector, options)
    if row_end:
        projector.add_row_end()
    return projector.to(device).requires_grad_(not freeze)


def _check_options(projector: Projector, given: dict[str, Any]) -> None:
    """What a model folder will know of the projector is what it was built with."""
    said, name = projector.options(), type(projector).__name__
    for key, value in given.items():
        if key not in said or (value is not None and json.dumps(said[key]) != json.dumps(value)):
            has = f"says {said[key]!r} for" if key in said else "leaves out"
            raise RecipeError(
                f"projector: {name}.options() {has} '{key}', which is {value!r}: the model would be read back wrong.\n"
                "options() returns every argument beyond the two widths (docs/extending.md)."
            )


def _no_projector(name: str) -> str:
    """The error for a projector's name that is no dotted path."""
    classes = {path.rpartition(".")[2]: path for path in SHIPPED_PROJECTORS}
    lower = {short.lower().removesuffix("projector"): short for short in classes}
    if depth := _LLAVA_MLP.fullmatch(name):
        nearest = f" For LLaVA's projector of this name leave `type` out and give depth={depth[1]}."
    else:
        match = lower.get(name.lower().removesuffix("projector"))
        nearest = f" Did you mean '{classes[match]}'?" if match else did_you_mean(name, classes)
    return (
        f"projector.type = '{shortened(name)}': not a class or its dotted path.{nearest}\n"
        f"Shipped: {', '.join(SHIPPED_PROJECTORS)}."
    )


def _trained_in_float32(part: nn.Module) -> nn.Module:
    """Every weight trained, and kept in float32: AdamW's small steps are lost in 16 bit."""
    return part.float().requires_grad_(True)
