"""Checkpoints that bring Python code along, or send for it. It runs only where the user said so."""

from pathlib import Path
from typing import Any

from vlmtool.utils.files import read_json

ALLOW = "--trust-remote-code (in a recipe: runtime.trust_remote_code = True)"
_NAMES_A_KERNEL = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def is_own(dotted: str) -> bool:
    """The class of this dotted path is vlmtool's; any other may be code that a downloaded file names."""
    return dotted.startswith("vlmtool.")


def needs_remote_code(error: BaseException) -> bool:
    """transformers refused to load a part because only code from its folder could."""
    return "trust_remote_code" in str(error)


def hub_kernel(folder: Path) -> str | None:
    """The hub repository from which transformers would fetch and run a part's attention, as its config.json wants it.

    It asks nobody: it does so wherever the `kernels` package is installed.
    """
    try:
        content = read_json(folder / "config.json")
    except (OSError, ValueError):
        return None  # transformers will say what is wrong with it
    return next((name for name in _implementations(content) if "/" in name), None)


def _implementations(content: Any) -> list[str]:
    """Names of implementations anywhere in a config; one for each of its models may stand in a mapping."""
    left, names = [content], []
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += value.values()
            for key in _NAMES_A_KERNEL:
                named = value.get(key)
                names += [str(item) for item in (named.values() if isinstance(named, dict) else [named])]
    return names
