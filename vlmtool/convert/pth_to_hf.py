"""From a training's `.pth` to a folder that chat and other tools open: which format is written by whom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlmtool.convert.card import write_card
from vlmtool.convert.export_huggingface import write_huggingface
from vlmtool.convert.export_official import write_official
from vlmtool.convert.export_vlmtool import write_vlmtool
from vlmtool.convert.export_xtuner import write_xtuner
from vlmtool.convert.source import Source, read_source
from vlmtool.convert.target import check_target, new_folder
from vlmtool.convert.trained_views import trained_views
from vlmtool.convert.whole import Writing
from vlmtool.models.lineage import Guard, parent_entry, text_hash
from vlmtool.models.manifest import Manifest, Template, remember_folder, write_manifest
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.errors import UsageError, did_you_mean

# What fills a new folder, and what the folder's manifest says of its parts.
Writer = Callable[[Source, Path, Writing, dict[str, Any]], Manifest]
_WRITERS: dict[str, Writer] = {
    "vlmtool": write_vlmtool,
    "huggingface": write_huggingface,
    "official": write_official,
    "xtuner": write_xtuner,
}
SAVE_FORMATS = tuple(_WRITERS)


def pth_to_hf(
    recipe: Recipe | None,
    checkpoint: Path,
    save_path: Path,
    save_format: str = "vlmtool",
    fp32: bool = False,
    max_shard_size: str = "5GB",
    force: bool = False,
) -> Path:
    """Write the model of a checkpoint as a folder, whole or not at all.

    Args:
        recipe: of the training; it may say otherwise of data, schedule and runtime, and where the bases lie now. None
            takes the one in the checkpoint.
        save_format: one of `SAVE_FORMATS`.
        force: warn where the recipe or a base is not the one of the training; what is written follows the checkpoint,
            on the base that was named, and its manifest records what was overridden.
        fp32: write float32; else each part in the type of its base, the projector in the LLM's. Formats that hold one
            type for all take the LLM's.

    Returns:
        `save_path`.

    Raises:
        UsageError: a file that is not there, a format that is not known or cannot hold this model, a folder that must
            not be replaced.
        CheckpointError: the checkpoint is damaged, or does not agree with the recipe or its bases.
    """
    check_format(save_format)
    check_target(save_path, [checkpoint])
    guard = Guard(force)
    source = read_source(recipe, checkpoint, guard)
    bases = [base for base in (source.llm, source.vision_encoder, source.beside) if base is not None]
    check_target(save_path, [base.folder for base in bases])
    with new_folder(save_path) as folder:
        folder.mkdir()
        facts = _facts(source, guard.overridden)
        manifest = _WRITERS[save_format](source, folder, Writing(fp32, max_shard_size), facts)
        write_card(folder, manifest, save_path)
        write_manifest(folder, manifest)
    remember_folder(save_path)
    return save_path


def check_format(save_format: str) -> None:
    """The format is one of `SAVE_FORMATS`.

    Raises:
        UsageError: it is not.
    """
    if save_format not in SAVE_FORMATS:
        raise UsageError(
            f"--save-format {save_format}: not known.{did_you_mean(save_format, SAVE_FORMATS)}\n"
            f"It takes {', '.join(SAVE_FORMATS)}."
        )


def _facts(source: Source, forced: list[str]) -> dict[str, Any]:
    """What a manifest says beside the two parts, whatever the format."""
    meta, said = source.meta, source.meta["template"]
    return dict(
        projector_config=meta["projector"],
        template=Template(name=said["name"], sha256=text_hash(said["jinja"]), stop_words=tuple(said["stop_words"])),
        pad_to_square=source.recipe.data.pad_to_square,
        image_tokens=trained_views(source)[1].told,
        recipe=meta["recipe"],
        parents=(parent_entry(source.checkpoint.path, meta), *meta["parents"]),
        data=meta["data"],
        versions=meta["versions"],
        forced=tuple(dict.fromkeys([*meta.get("forced", ()), *forced])),
    )
