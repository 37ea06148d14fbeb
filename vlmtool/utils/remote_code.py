"""Checkpoints that bring Python code along, or send for it. It runs only where the user said so."""

from pathlib import Path
from typing import Any

from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import read_json
from vlmtool.utils.imports import is_own

ALLOW = "--trust-remote-code (in a recipe: runtime.trust_remote_code = True)"
_NAMES_A_KERNEL = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def check_trusted(
    dotted: str, where: str, trust_remote_code: bool, remedy: str = f"If it is yours, or you know it, allow it: {ALLOW}"
) -> None:
    """The class at this dotted path, which a file names that may come from anywhere, may be imported.

    Args:
        where: the file, and its key.

    Raises:
        CheckpointError: it is not vlmtool's, and the user did not allow others.
    """
    if not (trust_remote_code or is_own(dotted)):
        raise CheckpointError(f"{where} = '{dotted}' is code of somebody else's, which was not run.\n{remedy}.")


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
