"""`vlmtool.json`: what a model folder is made of, where it comes from, and how to use it."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import write_json

FILE_NAME = "vlmtool.json"
FORMAT = 1


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class MergedAdapter(_Entry):
    """An adapter that is already inside the weights of a part."""

    sha256: str
    source: str = ""


class Part(_Entry):
    """An LLM or an encoder: its base, and the adapter or the weights of its own that the folder holds."""

    base: str
    """Folder or hub id that it was trained from."""
    sha256: str
    """Hash of the base's weights."""
    adapter: str | None = None
    """Sub-folder with a peft adapter."""
    weights: str | None = None
    """Sub-folder with the whole part; then the base is not needed."""
    merged: tuple[MergedAdapter, ...] = ()


class EncoderPart(Part):
    """The image encoder, and how it is read."""

    select_layer: int = -2
    select_strategy: str = "auto"


class Template(_Entry):
    """The chat template; its text is the root tokenizer's `chat_template`."""

    name: str | None = None
    stop_words: tuple[str, ...] = ()


class Manifest(_Entry):
    """A whole model folder."""

    format: int = FORMAT
    llm: Part
    vision_encoder: EncoderPart
    projector: str = "projector"
    """Sub-folder of the projector."""
    template: Template
    pad_to_square: bool = False
    recipe: dict[str, Any] = {}
    parents: tuple[dict[str, Any], ...] = ()
    """From this model's checkpoint back to the first stage: {checkpoint, sha256, step, recipe name}."""
    data: dict[str, Any] = {}
    versions: dict[str, str] = {}


class PartManifest(_Entry):
    """A single merged part (`convert merge BASE ADAPTER SAVE`)."""

    format: int = FORMAT
    part: str
    """`llm` or `vision_encoder`."""
    base: str
    sha256: str
    merged: tuple[MergedAdapter, ...] = ()


M = TypeVar("M", bound=_Entry)


def write_manifest(folder: Path, manifest: Manifest | PartManifest) -> None:
    """Write `vlmtool.json` into `folder`."""
    write_json(folder / FILE_NAME, manifest.model_dump())


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a model folder; None where the folder is not a whole model of vlmtool's.

    Raises:
        CheckpointError: the file is damaged or of another format.
    """
    content = _read(folder)
    return _parse(Manifest, content, folder) if content is not None and "part" not in content else None


def read_part_manifest(folder: Path) -> PartManifest | None:
    """The manifest of a single merged part; None where there is none."""
    content = _read(folder)
    return _parse(PartManifest, content, folder) if content is not None and "part" in content else None


def _read(folder: Path) -> dict[str, Any] | None:
    file = folder / FILE_NAME
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{file}: not readable as JSON: {error}\nWrite the folder again: `vlmtool convert`."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{file}: not a manifest of format {FORMAT}.\nUse the vlmtool version that wrote it.")
    return content


def _parse(cls: type[M], content: dict[str, Any], folder: Path) -> M:
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{folder / FILE_NAME}: '{key}': {first['msg']}.\nWrite the folder again: `vlmtool convert`."
        ) from error
