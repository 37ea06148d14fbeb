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
    """A language model's config: `torch_dtype` for `dtype`, `rope_theta` and `rope_scaling` for `rope_parameters`.

    Args:
        dtype: of the weights, such as "float16".
    """
    said = {key: value for key, value in config.items() if key not in ("dtype", "rope_parameters")}
    rope = dict(config.get("rope_parameters") or {})
    kind = rope.pop("rope_type", "default")
    if "rope_theta" in rope:
        said["rope_theta"] = rope.pop("rope_theta")
    if kind != "default":
        said["rope_scaling"] = {"type": kind, **rope}
    return {**said, "torch_dtype": dtype}


def early_tokenizer(config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of tokenizer_config.json with the name that its class had."""
    known = {"TokenizersBackend": "PreTrainedTokenizerFast"}
    name = config.get("tokenizer_class")
    return {**config, "tokenizer_class": known.get(str(name), name)}
