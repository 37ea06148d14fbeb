"""`--set KEY=VALUE`: dotted keys, Python literals as values."""

import ast
import copy
from collections.abc import Mapping, Sequence
from typing import Any

from vlmtool.utils.errors import RecipeError, UsageError

DEEPEST = 20  # names in a key


def apply_overrides(sections: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `sections` with each `a.b=VALUE` put in place; sections on the way are made where missing.

    Raises:
        UsageError: an override is not KEY=VALUE. Whether the key is known is the schema's to say.
    """
    result = copy.deepcopy(dict(sections))
    for override in overrides:
        key, separator, text = override.partition("=")
        names = key.strip().split(".")
        if not separator or len(names) > DEEPEST or not all(name.isidentifier() for name in names):
            if separator and (number := next((name for name in names if name.isdecimal()), None)):
                listed = ".".join(names[: names.index(number)])
                raise UsageError(f"--set {override}: a list has no keys.\nGive it anew, whole: --set '{listed}=[…]'")
            raise UsageError(f"--set {override}: not of the form KEY=VALUE.\nExample: --set schedule.lr=1e-4")
        _put(result, names, parse_value(text), override)
    return result


def _put(section: dict[str, Any], names: Sequence[str], value: Any, override: str) -> None:
    for name in names[:-1]:
        inner = section.setdefault(name, {})
        if inner is None:
            inner = section[name] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override}: '{name}' is the value {inner!r}, not a section.")
        section = inner
    section[names[-1]] = value


def parse_value(text: str) -> Any:
    """A Python literal, `dict(a=1)` included; text that is none, such as a path, stands for itself."""
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
        # It must be possible to write it down again: not so with infinity, a number of 5000 digits, 200 brackets.
        ast.literal_eval("(" * DEEPEST + repr(value) + ")" * DEEPEST)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return text
    return value


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=words) if all(word.arg for word in words):  # no **
            return {str(word.arg): _value(word.value) for word in words}
    if isinstance(node, ast.List | ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True) if key is not None}
    return ast.literal_eval(node)
