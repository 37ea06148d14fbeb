"""The projector of a LLaVA model, or of the mm_projector.bin that LLaVA's first stage writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmtool.models.imports.kind import Kind
from vlmtool.models.imports.llava import vision_width
from vlmtool.models.imports.names import Left
from vlmtool.models.imports.read import Foreign, find_foreign
from vlmtool.models.imports.vlm import find_vlm, projector_of
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import read_json_object


@dataclass(frozen=True)
class ImportedProjector:
    """Weights by the names of vlmtool's class, and what `build_projector` takes to make it."""

    config: dict[str, Any]
    state: dict[str, Tensor]

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `build_projector`."""
        return {"type_name": self.config["type"], **{name: v for name, v in self.config.items() if name != "type"}}


def import_projector(path: Path) -> ImportedProjector | None:
    """The projector of a whole LLaVA model, or of an mm_projector.bin (a file, or the folder that it lies in).

    None where `path` is neither.

    Raises:
        CheckpointError: it is damaged, or none that vlmtool has.
    """
    source = find_foreign(path)
    if source is None:
        return None
    if source.kind is Kind.LLAVA_PROJECTOR:
        return ImportedProjector(*projector_of(_state(source), str(path), vision_width(config_beside(path)), {}))
    vlm = find_vlm(path)
    return ImportedProjector(*vlm.projector()) if vlm is not None else None


def config_beside(path: Path) -> dict[str, Any]:
    """The config.json in a folder, or beside a file; empty where there is none."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    return read_json_object(file) if file.is_file() else {}


def _state(source: Foreign) -> dict[str, Tensor]:
    """The weights by the tool's names, without what stands before all of them."""
    found = {}
    for name, target, value in source.placed():
        if isinstance(target, Left):
            raise CheckpointError(f"{source.path}: '{name}' is not taken: {target.reason}.\nTake one without it.")
        found[target.removeprefix("projector.")] = value
    return found
