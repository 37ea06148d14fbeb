"""What a path is, where another tool than vlmtool wrote it."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from vlmtool.models.manifest import FILE_NAME
from vlmtool.utils.files import read_json

PROJECTOR_FILE = "mm_projector.bin"
FILE_ENDS = (".pth", ".pt", ".bin")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_HF_LLAVA = ("llava", "llava_next")
_BLIP2 = ("blip-2", "blip_2_qformer")


class Kind(StrEnum):
    """Kinds of folders and files."""

    XTUNER_CHECKPOINT = "XTuner checkpoint"
    XTUNER_FOLDER = "XTuner folder"
    LLAVA_PROJECTOR = "LLaVA projector"
    LLAVA = "LLaVA model in LLaVA's own layout"
    HF_LLAVA = "LLaVA model of transformers"
    BLIP2 = "BLIP-2 model of transformers"
    LAVIS = "BLIP-2 checkpoint of LAVIS"

    @property
    def named(self) -> str:
        """With its article."""
        return f"{'an' if self.startswith('X') else 'a'} {self}"

    @property
    def is_vlm(self) -> bool:
        """A whole vision-language model."""
        return self in (Kind.LLAVA, Kind.HF_LLAVA)


def foreign_kind(path: Path) -> Kind | None:
    """The kind of a folder or a weight file; None of what is vlmtool's own, a part, or unknown.

    Of a folder its file names and config.json are read, of a file what it holds.

    Raises:
        CheckpointError: the file is damaged or asks for more than tensors.
    """
    if path.is_dir():
        return _kind_of_folder(path)
    return _kind_of_file(path) if path.is_file() and path.suffix in FILE_ENDS else None


def _kind_of_folder(folder: Path) -> Kind | None:
    if (folder / FILE_NAME).is_file():
        return None
    said = _config(folder)
    model_type, has_weights = said.get("model_type"), any((folder / name).is_file() for name in _WEIGHTS)
    if (folder / "projector" / "config.json").is_file():
        return Kind.XTUNER_FOLDER
    if model_type in _HF_LLAVA and isinstance(said.get("text_config"), dict):
        return Kind.HF_LLAVA
    if "mm_vision_tower" in said and has_weights:
        return Kind.LLAVA
    if (folder / PROJECTOR_FILE).is_file():
        return Kind.LLAVA_PROJECTOR
    return Kind.BLIP2 if model_type in _BLIP2 else None


def _kind_of_file(path: Path) -> Kind | None:
    from vlmtool.models.imports.read import read_pickle  # imports torch, which folders are told without

    return kind_of_content(read_pickle(path))


def kind_of_content(content: Any) -> Kind | None:
    """The kind of what a weight file holds."""
    if not isinstance(content, Mapping):
        return None
    if isinstance(meta := content.get("meta"), Mapping) and "state_dict" in content:
        return None if "format" in meta else Kind.XTUNER_CHECKPOINT
    model = content.get("model")
    names = [name for name in (model if isinstance(model, Mapping) else content) if isinstance(name, str)]
    if any(name.startswith("Qformer.") for name in names):
        return Kind.LAVIS
    if any("mm_projector." in name for name in names):
        return Kind.LLAVA_PROJECTOR
    return Kind.BLIP2 if any(name.startswith("qformer.") for name in names) else None


def _config(folder: Path) -> dict[str, Any]:
    try:
        said = read_json(folder / "config.json")
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
