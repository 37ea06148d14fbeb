"""`vlmtool.json`: what a model folder is made of, where it comes from, and how to use it.

A folder in another tool's layout is read by what that layout has; where it comes from stands in `vlmtool_lineage.json`.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from vlmtool.models.fingerprint import Identity, file_hashes, remember
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import read_json_object, write_json

FILE_NAME = "vlmtool.json"
LINEAGE_NAME = "vlmtool_lineage.json"
CARD_NAME = "README.md"
FORMAT = 1


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or not name.isprintable():
        raise ValueError(f"{name!r} is no sub-folder")
    return name


# A manifest may come from anywhere: what it names is looked for inside its own folder only.
SubFolder = Annotated[str, AfterValidator(_inside)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class MergedAdapter(_Entry):
    """An adapter that is already inside the weights of a part."""

    sha256: str
    source: str = ""


class Base(_Entry):
    """What a part was trained from."""

    base: str
    """Folder or hub id that it was trained from."""
    sha256: str
    """Hash of the base's weights."""
    config_sha256: str = ""
    """Hash of what the base's config.json says; `fingerprint.Identity` tells why."""

    @property
    def identity(self) -> Identity:
        """What the base was in training, or before the adapters went in."""
        return Identity(self.sha256, self.config_sha256)


class Part(Base):
    """An LLM or an encoder: its base, and the adapter or the weights of its own that the folder holds."""

    adapter: SubFolder | None = None
    """Sub-folder with a peft adapter."""
    weights: SubFolder | None = None
    """Sub-folder with the whole part; then the base is not needed."""
    merged: tuple[MergedAdapter, ...] = ()


class BesidePart(Base):
    """The second encoder of a pair: never trained, so its base is all of it."""

    type: str | None = None
    select_layer: int = -2
    select_strategy: str = "auto"
    image_processor: SubFolder
    """Sub-folder of its image processor."""


class EncoderPart(Part):
    """The image encoder, and how it is read (`Reading`)."""

    type: str | None = None
    select_layer: int = -2
    select_strategy: str = "auto"
    image_size: int | None = None
    tiles: tuple[tuple[int, int], ...] = ()
    max_patches: int | None = None
    beside: BesidePart | None = None
    """Another encoder side by side with this one."""


class Template(_Entry):
    """The chat template; its text is the root tokenizer's `chat_template`."""

    name: str | None = None
    sha256: str = ""
    """Hash of the text."""
    stop_words: tuple[str, ...] = ()


class Manifest(_Entry):
    """A whole model folder. What has a default may be missing in manifests of earlier versions."""

    format: int = FORMAT
    llm: Part
    vision_encoder: EncoderPart
    projector: SubFolder = "projector"
    """Sub-folder of the projector."""
    projector_config: dict[str, Any] = {}
    """{type, vision_hidden_size, llm_hidden_size, options, row_end}."""
    template: Template
    pad_to_square: bool = False
    image_tokens: str = ""
    """How many tokens pictures take, in words."""
    recipe: dict[str, Any] = {}
    parents: tuple[dict[str, Any], ...] = ()
    """From this model's checkpoint back to the first stage: {checkpoint, sha256, name of the recipe, step, epoch,
    stage: what was trained of each part}."""
    data: dict[str, Any] = {}
    """{path, sha256, num_samples}."""
    versions: dict[str, str] = {}
    files: dict[str, str] = {}
    """{relative path: sha256} of every other file in the folder."""
    forced: tuple[str, ...] = ()
    """Refusals that `--force` overrode, in this model and its parents."""


class Export(Manifest):
    """A whole model in another tool's layout: what it was made from, which nothing needs to use it."""

    layout: str
    """`huggingface`, `official` or `xtuner`."""
    inside: tuple[str, ...] = ()
    """Parts whose weights the folder's own files hold, whole and under that layout's names."""


class PartManifest(Base):
    """A single merged part (`convert merge BASE ADAPTER SAVE`)."""

    format: int = FORMAT
    part: str
    """`llm` or `vision_encoder`."""
    merged: tuple[MergedAdapter, ...] = ()
    files: dict[str, str] = {}
    forced: tuple[str, ...] = ()


M = TypeVar("M", bound=_Entry)


def write_manifest(folder: Path, manifest: Manifest | PartManifest) -> None:
    """Write the manifest into `folder`, with the hashes of all files that are there: it is written last."""
    name = LINEAGE_NAME if isinstance(manifest, Export) else FILE_NAME
    hashes = {file.relative_to(folder).as_posix(): value for file, value in file_hashes(listed_files(folder)).items()}
    write_json(folder / name, manifest.model_copy(update={"files": hashes}).model_dump())


def remember_folder(folder: Path) -> None:
    """Remember the hashes that a manifest just written has, now that the folder stands under its own name."""
    content = _read(folder) or _read(folder, LINEAGE_NAME) or {}
    remember({folder / name: value for name, value in content.get("files", {}).items()})


def listed_files(folder: Path) -> list[Path]:
    """Every file below `folder` but its own manifest and its card, which people may edit; sorted."""
    own = [folder / name for name in (FILE_NAME, LINEAGE_NAME, CARD_NAME)]
    return sorted(file for file in folder.rglob("*") if file.is_file() and file not in own)


def template_text(folder: Path) -> str:
    """The chat template of a model folder's root tokenizer; empty where it has none."""
    file = folder / "chat_template.jinja"
    try:
        if file.is_file():
            return file.read_text(encoding="utf-8")
        return str(read_json_object(folder / "tokenizer_config.json").get("chat_template") or "")
    except (OSError, ValueError, CheckpointError):
        return ""


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


def read_lineage(folder: Path) -> Export | None:
    """Where a folder in another tool's layout comes from; None where vlmtool did not write it.

    Raises:
        CheckpointError: the file is damaged or of another format.
    """
    content = _read(folder, LINEAGE_NAME)
    return _parse(Export, content, folder, LINEAGE_NAME) if content is not None else None


def owner_of_adapter(adapter: Path) -> tuple[str, Part, Manifest] | None:
    """The part whose adapter lies in the folder `adapter`: its name, its entry and the manifest of the model folder.

    None for an adapter that is in no model folder of vlmtool's.
    """
    folder = adapter.resolve()
    manifest = read_manifest(folder.parent)
    if manifest is None:
        return None
    entries: dict[str, Part] = {"llm": manifest.llm, "vision_encoder": manifest.vision_encoder}
    return next(((name, entry, manifest) for name, entry in entries.items() if entry.adapter == folder.name), None)


def _read(folder: Path, name: str = FILE_NAME) -> dict[str, Any] | None:
    file = folder / name
    if not file.is_file():
        return None
    content = read_json_object(file)
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{file}: not a manifest of format {FORMAT}.\nUse the vlmtool version that wrote it.")
    return content


def _parse(cls: type[M], content: dict[str, Any], folder: Path, name: str = FILE_NAME) -> M:
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key, what = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
        raise CheckpointError(
            f"{folder / name}: '{key}': {what}.\nWrite the folder again: `vlmtool convert`."
        ) from error
