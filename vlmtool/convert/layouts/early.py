"""Configs and names as versions of transformers before 5 read them, which other tools' LLaVA code is written for.

Version 5 reads them too.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Encoders whose class had one level more in its names. Those of this version leave it out where they write.
LEVEL = "vision_model"
LEVEL_TYPES = ("clip_vision_model", "siglip_vision_model")


def below_vision_model(state: Mapping[str, Tensor], beginning: str = "") -> dict[str, Tensor]:
    """Weights with `vision_model` in their names, as the classes of `LEVEL_TYPES` had it.

    Args:
        beginning: of the encoder's names, after which it stands; others stay as they are.
    """
    start = f"{beginning}." if beginning else ""
    wanted = f"{start}{LEVEL}."
    return {
        name if name.startswith(wanted) or not name.startswith(start) else wanted + name.removeprefix(start): value
        for name, value in state.items()
    }


def early_words(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A language model's config: `torch_dtype` for `dtype`, keys of their own and `rope_scaling` for `rope_parameters`.

    Rope that differs from layer to layer has no early words, and is left as it is.

    Args:
        dtype: of the weights, such as "float16".
    """
    said = {**{key: value for key, value in config.items() if key != "dtype"}, "torch_dtype": dtype}
    rope = dict(config.get("rope_parameters") or {})
    if any(isinstance(value, Mapping) for value in rope.values()):
        return said
    said.pop("rope_parameters", None)
    kind = rope.pop("rope_type", "default")
    said |= {key: rope.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    return said if kind == "default" and not rope else {**said, "rope_scaling": {"type": kind, **rope}}


def early_tokenizer(config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of tokenizer_config.json with the name that its class had."""
    known = {"TokenizersBackend": "PreTrainedTokenizerFast"}
    name = config.get("tokenizer_class")
    return {**config, "tokenizer_class": known.get(str(name), name)}
