"""Read a recipe: file → sections → overrides → checked `Recipe`."""

import re
import warnings
from collections.abc import Mapping, Sequence
from keyword import iskeyword
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from vlmtool.recipe.catalog import CONFIGS, find_recipe
from vlmtool.recipe.override import apply_overrides
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.errors import RecipeError, did_you_mean, message_lines, shortened

# pydantic's kinds of problems in a recipe's words.
_WORDS = {
    "float_type": "a number is needed",
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "string_type": "a text is needed",
    "bool_type": "True or False is needed",
    "tuple_type": "a list is needed",
    "dict_type": "a dict is needed",
    "literal_error": "it takes {expected}",
    "greater_than": "it must be above {gt}",
    "greater_than_equal": "it must be at least {ge}",
    "less_than": "it must be below {lt}",
    "finite_number": "it must be finite",
}


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The checked recipe of a shipped name or a file, with `KEY=VALUE` overrides.

    Raises:
        UsageError: no such recipe; RecipeError: it cannot be read or says something unknown.
    """
    path = find_recipe(name_or_path)
    return parse_recipe(apply_overrides(read_sections(path), overrides), str(path), overrides)


def read_sections(path: Path) -> dict[str, Any]:
    """Sections of a recipe file as plain values; a class stands as its dotted path."""
    from mmengine.config import Config

    if not path.is_relative_to(CONFIGS):
        _show_package_to_mmengine()
    try:
        sections = Config.fromfile(str(path), lazy_import=True).to_dict()
    except Exception as error:  # a recipe is its user's own code, which may raise anything
        reason = message_lines(error)[0]
        raise RecipeError(
            f"{path}: the recipe cannot be read: {type(error).__name__}: {reason}.\n"
            "A recipe is plain Python: `from … import`, `with read_base():`, and sections `name = dict(…)`."
        ) from error
    return plain(sections)


def _show_package_to_mmengine() -> None:
    """Let `read_base` find `vlmtool.configs` when vlmtool is installed as editable, and so not in site-packages.

    mmengine asks pkg_resources, which knows the place of an editable package's metadata only.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated: nothing that a user could change
        import pkg_resources

    package = CONFIGS.parent
    known = pkg_resources.working_set.by_key.get(package.name)
    if known is not None and not Path(known.location or "", package.name).is_dir():
        here = pkg_resources.Distribution(str(package.parent), project_name=package.name, version=known.version)
        pkg_resources.working_set.add(here, replace=True)


def plain(value: Any) -> Any:
    """`value` with lists as tuples and classes as dotted paths, so that it can be checked and written down."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return value


def parse_recipe(sections: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> Recipe:
    """Check sections against the schema.

    Args:
        where: the file's name, for the error.
        overrides: what was put over the file's values; an error about one of these does not blame the file.
    """
    try:
        return Recipe.model_validate(plain(sections))
    except ValidationError as error:
        # An unknown key first: a misspelt key is also reported as a missing one.
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        location = [str(part) for part in problems[0]["loc"]]
        section = known_keys(location[:-1]) if problems[0]["type"] in ("extra_forbidden", "missing") else []
        keys = f"\nKeys there: {', '.join(section)}." if section else ""
        source = _source(location, where, overrides)
        raise RecipeError(f"{source}: {_describe(problems[0])}{keys}") from error


def _source(location: Sequence[str], where: str, overrides: Sequence[str]) -> str:
    """Who said what stands at a location: the file, `--set`, or both of them."""
    has_part = False
    for override in overrides:
        names = override.partition("=")[0].strip().split(".")
        if names == list(location[: len(names)]):
            return "--set"
        has_part |= names[: len(location)] == list(location)
    return f"{where} with --set" if has_part else where


def _describe(problem: Mapping[str, Any]) -> str:
    """One problem of pydantic's in a recipe's words."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location) or "the recipe"
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'.{did_you_mean(location[-1], known_keys(location[:-1]))}"
    if problem["type"] == "missing":
        return f"'{key}' is missing."
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key} {message}."
    said = f"{key} = {shortened(repr(problem['input']))}"
    if problem["type"] == "model_type":
        keys = _required_keys(location)
        return f"{said}: a section is needed, dict({', '.join(f'{name}=…' for name in keys)})."
    if problem["type"] in _WORDS:
        context = problem.get("ctx", {})
        known = re.findall("'([^']*)'", context.get("expected", ""))
        meant = did_you_mean(problem["input"], known) if isinstance(problem["input"], str) else ""
        return f"{said}: {_WORDS[problem['type']].format(**context)}.{meant}"
    return f"{said}: {message[0].lower()}{message[1:]}."


def _required_keys(location: Sequence[str]) -> list[str]:
    """Keys that the section at `location` cannot do without; all of them where it can do without any."""
    section = _section_at(location)
    if section is None:
        return []
    fields = section.model_fields
    return [name for name, field in fields.items() if field.is_required()] or list(fields)


def known_keys(location: Sequence[str]) -> list[str]:
    """Keys that may stand in the section at `location`, e.g. ["llm", "lora"]."""
    section = _section_at(location)
    return list(section.model_fields) if section is not None else []


def _section_at(location: Sequence[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = Recipe
    for name in location:
        if name.isdigit():  # of a list of sections
            continue
        field = section.model_fields.get(name)
        inner = [t for t in (field.annotation, *get_args(field.annotation)) if _is_section(t)] if field else []
        if not inner:
            return None
        section = inner[0]
    return section


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values that JSON, a checkpoint and `parse_recipe` can hold."""
    return recipe.model_dump(exclude_unset=True)


def recipe_text(recipe: Recipe, title: str) -> str:
    """A self-contained recipe file: bases inlined as sections, only what was said."""
    lines = [f'"""{title}"""']
    for name, value in recipe_values(recipe).items():
        lines.append("")
        lines.append(f"{name} = {_literal(value)}")
    return "\n".join(lines) + "\n"


def _literal(value: Any, indent: int = 0) -> str:
    pad = " " * (indent + 4)
    if isinstance(value, tuple) and value and all(isinstance(item, Mapping) for item in value):
        inner = "".join(f"{pad}{_literal(item, indent + 4)},\n" for item in value)
        return f"(\n{inner}{' ' * indent})"
    if not isinstance(value, Mapping):
        return repr(value)
    if not value:
        return "dict()"
    if all(_is_name(key) for key in value):
        inner = "".join(f"{pad}{key}={_literal(item, indent + 4)},\n" for key, item in value.items())
        return f"dict(\n{inner}{' ' * indent})"
    return repr(dict(value))


def _is_name(key: Any) -> bool:
    """`key` can stand before a `=` and is read back as it is: Python makes other letters of some beyond ASCII."""
    return isinstance(key, str) and key.isascii() and key.isidentifier() and not iskeyword(key)
