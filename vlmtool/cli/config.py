"""`vlmtool config list | show | copy`: the recipes that come with vlmtool, and one's own."""

import json
import pprint
from pathlib import Path
from typing import Annotated

import typer

from vlmtool.utils.errors import UsageError, did_you_mean
from vlmtool.utils.files import write_text
from vlmtool.utils.terminal import clean


def list_recipes(
    pattern: Annotated[
        str, typer.Option("--pattern", "-p", help="Only names that hold this text, or match it with * and ?.")
    ] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """List the recipes that come with vlmtool: parts, what is trained, GPUs × batch (× accumulation), GB per GPU.

    GB is what the recipe's authors name, or (~) an estimate of weights, gradients and optimiser without DeepSpeed;
    activations come on top.
    """
    from vlmtool.recipe.catalog import recipes

    chosen = recipes(pattern)
    if not chosen:
        hint = did_you_mean(pattern, [entry.name for entry in recipes()])
        raise UsageError(f"No recipe name matches '{pattern}'.{hint}\n`vlmtool config list` shows all of them.")
    from vlmtool.recipe.load import load_recipe
    from vlmtool.recipe.overview import overview, table

    rows = [overview(entry, load_recipe(str(entry.path))) for entry in chosen]
    if as_json:
        print(json.dumps([row.values() for row in rows], indent=2, ensure_ascii=False))
    else:
        print(clean("\n".join(table(rows))))


def show(
    name: Annotated[str, typer.Argument(help="Recipe name or file.")],
    expanded: Annotated[
        bool, typer.Option("--expanded", help="Show the mmengine arguments that the recipe becomes.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "--cfg-options", metavar="KEY=VALUE", help="Change a value; may be given several times."),
    ] = None,
) -> None:
    """Print a recipe with its bases written out."""
    if not expanded:
        print(clean(_text(name, overrides or [])), end="")
        return
    from vlmtool.engine.expand import expand
    from vlmtool.recipe.load import load_recipe, plain

    arguments = plain(expand(load_recipe(name, overrides or [])))
    print(clean(pprint.pformat(arguments, width=110, sort_dicts=False)))


def copy(
    name: Annotated[str, typer.Argument(help="Recipe name or file.")],
    target: Annotated[Path, typer.Argument(help="Folder that receives NAME_copy.py, or a file ending in .py.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a copy that is there.")] = False,
) -> None:
    """Write a self-contained copy of a recipe, to be changed and trained from."""
    text = _text(name, [])
    file = target if target.suffix == ".py" else target / f"{_stem(name)}_copy.py"
    if file.exists() and not force:
        raise UsageError(f"{file} exists and may hold changes of yours. Name another file, or pass --force.")
    try:
        write_text(file, text)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}. Name a folder that can hold files.") from error
    print(clean(str(file)))


def _text(name: str, overrides: list[str]) -> str:
    """The recipe as one self-contained file."""
    from vlmtool.recipe.load import load_recipe, recipe_text

    return recipe_text(load_recipe(name, overrides), f"{_stem(name)}, with its bases written out.")


def _stem(name: str) -> str:
    """`my_recipe` for `my_recipe`, `my_recipe.py` and `folder/my_recipe.py`."""
    return Path(name).name.removesuffix(".py")
