"""From one tool's names of weights to another's, by tables of their beginnings."""

from collections.abc import Mapping

from torch import Tensor


def renamed(state: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    """Each weight under the name that `table` gives for the beginning of its own.

    Args:
        table: beginnings, whole parts of dotted names, to what stands in their place; an empty one fits every name.

    Raises:
        KeyError: a name begins with none of them.
    """
    return {_renamed(name, table): value for name, value in state.items()}


def _renamed(name: str, table: Mapping[str, str]) -> str:
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        beginning = ".".join(parts[:length])
        if beginning in table:
            return ".".join(part for part in (table[beginning], *parts[length:]) if part)
    raise KeyError(f"'{name}' has no place in the layout {dict(table)}")
