"""What the config.json of a whole vision-language model says of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

from vlmtool.models.encoders.reading import Reading
from vlmtool.utils.errors import CheckpointError, message_lines
from vlmtool.utils.tiling import Grid

# What transformers raises of values that make no sense to it.
ODD = (ValueError, TypeError, AttributeError, KeyError, StrictDataclassError)


@dataclass(frozen=True)
class VlmFacts:
    """A whole model of another tool: its parts' classes, and how pictures reach them."""

    llm: type[PreTrainedModel]
    llm_config: PreTrainedConfig
    reading: Reading
    pad_to_square: bool
    vision_config: PreTrainedConfig | None = None
    """None where the encoder is a folder of its own, `tower`."""
    tower: str = ""
    """Path or hub id of the encoder."""
    vision_hidden_size: int | None = None
    """D_vision, where it is said."""
    projector_options: dict[str, Any] = field(default_factory=dict)
    """What the shapes of the projector's weights do not tell."""


def native_llm(said: Mapping[str, Any], model_type: str, where: Path) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """The class of transformers for a language model of this type, and its config.

    Raises:
        CheckpointError: there is none, or the config makes no sense to it.
    """
    try:
        config = CONFIG_MAPPING[model_type].from_dict({**said, "model_type": model_type})
        cls = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except ODD as error:
        raise CheckpointError(
            f"{where}: its language model, '{model_type}', cannot be read: {message_lines(error)[0]}\n"
            "vlmtool takes those for which transformers has a class of a causal language model."
        ) from error
    config.architectures = [cls.__name__]
    config.name_or_path = str(where.parent)
    return cls, config


def grids(pinpoints: Any, side: int | None, where: Path) -> tuple[Grid, ...]:
    """Grids (rows, columns) of tiles from the sizes (height, width) in pixels that a config lists.

    Raises:
        CheckpointError: they are no multiples of a tile's side.
    """
    try:
        found = [(int(height), int(width)) for height, width in pinpoints]
        if not side or not found or any(value % side for size in found for value in size):
            raise ValueError
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: image_grid_pinpoints are not sizes in whole tiles of {side} pixels.\n"
            "Take the config.json of the published model."
        ) from error
    return tuple((height // side, width // side) for height, width in found)


def plain_layer(value: Any, key: str, where: Path) -> int:
    """The layer of the encoder that the projector reads.

    Raises:
        CheckpointError: several are read at once.
    """
    if isinstance(value, int):
        return value
    raise CheckpointError(f"{where}: {key} = {value}: vlmtool reads one layer of an encoder.\nTake a model that does.")
