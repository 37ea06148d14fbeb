"""How a run, a checkpoint or a model folder is put together, as far as its weights depend on it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlmtool.data.templates.library import ChatTemplate
from vlmtool.engine.meta import projector_config
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.fingerprint import Identity
from vlmtool.models.lineage import Setup, text_hash
from vlmtool.models.manifest import Manifest, template_text
from vlmtool.models.parts import BESIDE
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.recipe.schema import Recipe

Origins = dict[str, dict[str, str]]  # `meta.part_origins`


def setup_of_run(recipe: Recipe, origins: Origins, template: ChatTemplate, model: VisionLanguageModel) -> Setup:
    """How this run is put together."""
    encoder = recipe.vision_encoder
    return Setup(
        parts=_parts(origins),
        template=(template.name, text_hash(template.jinja)),
        projector=projector_config(recipe, model),
        reading=Reading.of(encoder),
        pad_to_square=recipe.data.pad_to_square,
        trains=frozenset(name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad),
    )


def setup_of_checkpoint(meta: Mapping[str, Any], names: Iterable[str]) -> Setup:
    """How a checkpoint was put together; what earlier versions did not record stands in the recipe."""
    encoder, data = meta["recipe"]["vision_encoder"], meta["recipe"]["data"]
    pictures = meta.get("pictures", {})
    return Setup(
        parts=_parts(meta["parts"]),
        template=(meta["template"]["name"], text_hash(meta["template"]["jinja"])),
        projector=meta["projector"],
        reading=Reading.of({**encoder, **pictures}),
        pad_to_square=pictures.get("pad_to_square", data.get("pad_to_square", False)),
        trains=frozenset(name.partition(".")[0] for name in names),
    )


def setup_of_folder(folder: Path, manifest: Manifest) -> Setup:
    """How the model of a folder is put together, as its manifest says."""
    encoder = manifest.vision_encoder
    entries = {"llm": manifest.llm, "vision_encoder": encoder}
    trained = {name for name, entry in entries.items() if entry.adapter is not None}
    bases = {**entries, BESIDE: encoder.beside} if encoder.beside is not None else entries
    return Setup(
        parts={name: (base.base, base.identity) for name, base in bases.items()},
        template=(manifest.template.name, text_hash(template_text(folder))),
        projector=manifest.projector_config,
        reading=Reading.of(encoder),
        pad_to_square=manifest.pad_to_square,
        trains=frozenset(trained | {"projector"}),
    )


def _parts(origins: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, Identity]]:
    return {
        part: (origin["path"], Identity(origin["sha256"], origin.get("config_sha256", "")))
        for part, origin in origins.items()
    }
