"""A legacy checkpoint as a model of its native class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from vlmtool.models.legacy.map import LegacyMap

GENERATION = "generation_config.json"


def load_legacy(folder: Path, legacy: LegacyMap, **arguments: Any) -> PreTrainedModel:
    """The native model with the weights of `folder`.

    Args:
        arguments: of `from_pretrained`: dtype, quantization_config, device_map.

    Raises:
        CheckpointError: the checkpoint is damaged, incomplete, or has what its native class does not compute.
    """
    config, state = legacy.native_config(folder), legacy.native_state(folder)
    return load_native(folder, legacy.model, config, state, **arguments)


def load_native(
    folder: Path, cls: type[PreTrainedModel], config: PreTrainedConfig, state: Mapping[str, Tensor], **arguments: Any
) -> PreTrainedModel:
    """A model of a native class from weights by its names, with the generation settings of `folder`.

    Args:
        arguments: of `from_pretrained`: dtype, quantization_config, device_map.
    """
    model = cls.from_pretrained(None, config=config, state_dict=state, **arguments)
    if (folder / GENERATION).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model
