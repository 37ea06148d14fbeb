"""What a checkpoint says of its origin: recipe, parts with hashes, adapters, data, parents, versions."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlmtool.data.templates.library import SET_TEMPLATE, ChatTemplate, find_template
from vlmtool.models.fingerprint import file_hashes, identity_of
from vlmtool.models.lineage import text_hash
from vlmtool.models.lora import adapter_config
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.recipe.load import recipe_values
from vlmtool.recipe.schema import Recipe
from vlmtool.version import __version__

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "mmengine")


def part_origins(recipe: Recipe, folders: dict[str, Path]) -> dict[str, dict[str, str]]:
    """{llm, vision_encoder, …}: {path as the recipe names it, sha256 of its weights, config_sha256}.

    Args:
        folders: of every part of `recipe.paths`.
    """
    origins = {}
    for name, path in recipe.paths.items():
        found = identity_of(folders[name])
        origins[name] = {"path": path, "sha256": found.weights, "config_sha256": found.config}
    return origins


def checkpoint_meta(
    name: str,
    recipe: Recipe,
    origins: dict[str, dict[str, str]],
    model: VisionLanguageModel,
    template: ChatTemplate,
    data: dict[str, Any],
    parents: list[dict[str, Any]],
    forced: Sequence[str] = (),
) -> dict[str, Any]:
    """The meta of every checkpoint of a run; step and epoch are added when one is written.

    Args:
        origins: `part_origins`.
        parents: from the stage before back to the first.
        forced: refusals that were overridden, here and by the parents.
    """
    return {
        "name": name,
        "recipe": _as_lists(recipe_values(recipe)),
        "parts": origins,
        "adapters": {
            "llm": _as_lists(adapter_config(model.llm)),
            "vision_encoder": _as_lists(adapter_config(model.vision_encoder.model)),
        },
        "projector": projector_config(recipe, model),
        "pictures": {
            **model.vision_encoder.reading.said(),
            "pad_to_square": recipe.data.pad_to_square,
        },
        "template": {"name": template.name, "jinja": template.jinja, "stop_words": list(template.stop_words)},
        "data": data,
        "parents": parents,
        "forced": list(forced),
        "versions": {"vlmtool": __version__, **{package: version(package) for package in PACKAGES}},
    }


def projector_config(recipe: Recipe, model: VisionLanguageModel) -> dict[str, Any]:
    """What it takes to build the projector again."""
    projector = model.projector
    return {
        "type": recipe.projector.type,
        "vision_hidden_size": projector.vision_hidden_size,
        "llm_hidden_size": projector.llm_hidden_size,
        "options": _as_lists(projector.options()),
        **({"row_end": True} if projector.row_end is not None else {}),
    }


def data_origin(recipe: Recipe, sizes: Sequence[int]) -> dict[str, Any]:
    """What was learned from: {path, sha256, num_samples}; of a mixture {sets, sha256 of them all, num_samples}.

    Args:
        sizes: samples of each training set.
    """
    sets: list[dict[str, Any]] = []
    for given, size in zip(recipe.training_sets, sizes, strict=True):
        sha256 = file_hashes([Path(given.path)])[Path(given.path)]
        sets.append({"path": given.path, "sha256": sha256, "weight": given.weight, "num_samples": size})
        if given.template != recipe.llm.template:  # other samples of the same records
            sets[-1]["template"] = text_hash(find_template(given.template, None, SET_TEMPLATE).jinja)
    hashes = [entry["sha256"] + entry.get("template", "") for entry in sets]
    together = {"sha256": text_hash("\n".join(hashes)) if len(hashes) > 1 else hashes[0], "num_samples": sum(sizes)}
    return {"path": recipe.data.path, **together} if recipe.data.path is not None else {"sets": sets, **together}


def _as_lists(value: Any) -> Any:
    """Plain values only, tuples and sets as lists: what JSON and a safe `torch.load` can hold."""
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_as_lists(item) for item in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
