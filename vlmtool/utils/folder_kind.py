"""What a folder is that was given for a model, where its files show that it is something else."""

from pathlib import Path
from typing import NamedTuple

from vlmtool.utils.files import read_json

_ENCODERS = ("clip", "siglip", "dino")  # how the model_type of an image encoder begins


class FolderKind(NamedTuple):
    """`what` it is, as "a run folder", and what to do instead of giving it for a model."""

    what: str
    remedy: str


def other_than_model(folder: Path) -> FolderKind | None:
    """The kind of a folder that is neither a language model nor a model folder; None of what may be one."""
    if (folder / "last_checkpoint").is_file() or any(folder.glob("iter_*.pth")):
        command = f"vlmtool convert pth_to_hf {folder / 'recipe.py'} {_newest(folder)} SAVE_PATH"
        return FolderKind("a run folder", f"Convert it first: {command}")
    if (folder / "adapter_config.json").is_file():
        return FolderKind("an adapter", _whole(folder, "the base, and the adapter beside it"))
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return None
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if isinstance(model_type, str) and model_type.startswith(_ENCODERS):
        return FolderKind(f"an image encoder ('{model_type}')", "It goes with vision_encoder.path or --visual-encoder.")
    if isinstance(config, dict) and model_type in (None, "projector") and "llm_hidden_size" in config:
        return FolderKind("a projector", _whole(folder, "the model folder that it is part of"))
    return None


def _newest(folder: Path) -> Path | str:
    """The checkpoint of the latest step."""
    saved = sorted(folder.glob("iter_*.pth"), key=lambda file: (len(file.name), file.name))
    return saved[-1] if saved else "PTH"


def _whole(folder: Path, otherwise: str) -> str:
    """Where the folder is part of a model folder, that one is what to give."""
    whole = folder.absolute().parent
    is_part = (whole / "vlmtool.json").is_file() or (whole / "projector" / "config.json").is_file()
    return f"Give its model folder: {whole}" if is_part else f"Give {otherwise}."
