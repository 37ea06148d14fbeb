"""From the keys of a legacy config.json to arguments of a native config."""

from collections.abc import Mapping
from typing import Any


def check_switches(said: Mapping[str, Any], computed: Mapping[str, Any]) -> None:
    """See that switches of a config.json are where the native class has them; a key that is absent or null is.

    Raises:
        ValueError: one is not; names it.
    """
    for key, value in computed.items():
        if said.get(key) not in (None, value):
            has = f"has {value!r} only" if value is not None else "has none"
            shown = str(said[key])[:60]
            raise ValueError(f"{key} = {shown}: the native class {has}.\nUse a checkpoint without it.")


def common(said: Mapping[str, Any]) -> dict[str, Any]:
    """What every native config takes over by the same name."""
    dtype = said.get("torch_dtype") or said.get("dtype")
    token_ids = {key: said.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {
        **token_ids,
        **({"dtype": str(dtype).removeprefix("torch.")} if dtype else {}),
        "tie_word_embeddings": bool(said.get("tie_word_embeddings", False)),
        "use_cache": bool(said.get("use_cache", True)),
        "initializer_range": said.get("initializer_range", 0.02),
    }


def plain_rope(theta: float) -> dict[str, Any]:
    """Rotary embeddings without scaling."""
    return {"rope_type": "default", "rope_theta": float(theta)}
