"""The weights of a foreign folder or file, one tensor after another, memory-mapped, by the names of their tool."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmtool.models.checkpoint import safe_load
from vlmtool.models.foreign import MMENGINE
from vlmtool.models.imports import blip2, hf_llava, llava, xtuner
from vlmtool.models.imports.kind import PROJECTOR_FILE, Kind, foreign_kind
from vlmtool.models.imports.names import Left, Rules, place
from vlmtool.models.legacy.shards import read_file, read_tensors
from vlmtool.models.lora import name_in_model
from vlmtool.utils.errors import CheckpointError

Named = Iterator[tuple[str, Tensor]]

RULES: dict[Kind, Rules] = {
    Kind.XTUNER_CHECKPOINT: xtuner.RULES,
    Kind.XTUNER_FOLDER: xtuner.RULES,
    Kind.LLAVA_PROJECTOR: llava.PROJECTOR_ONLY,
    Kind.LLAVA: llava.RULES,
    Kind.HF_LLAVA: hf_llava.RULES,
    Kind.BLIP2: blip2.HF_RULES,
    Kind.LAVIS: blip2.LAVIS_RULES,
}


@dataclass(frozen=True)
class Foreign:
    """A folder or file of another tool."""

    path: Path
    kind: Kind

    def tensors(self) -> Named:
        """Name and tensor of every weight.

        Raises:
            CheckpointError: a file is missing, damaged, or asks for more than tensors.
        """
        if self.path.is_file():
            return _of_content(read_pickle(self.path), self.path)
        if self.kind is Kind.LLAVA_PROJECTOR:
            return read_file(self.path / PROJECTOR_FILE)
        return _of_xtuner_folder(self.path) if self.kind is Kind.XTUNER_FOLDER else read_tensors(self.path)

    def placed(self) -> Iterator[tuple[str, str | Left, Tensor]]:
        """Name, its name in vlmtool's model or why it has none, and tensor of every weight."""
        return ((name, place(RULES[self.kind], name), value) for name, value in self.tensors())


def find_foreign(path: Path) -> Foreign | None:
    """What another tool wrote at `path`; None of what is vlmtool's own, a part, or unknown.

    Raises:
        CheckpointError: a file that is damaged or asks for more than tensors.
    """
    kind = foreign_kind(path)
    return Foreign(path, kind) if kind is not None else None


def read_pickle(path: Path) -> Any:
    """What a file of `torch.save` holds: tensors and plain values; of what mmengine logged beside them, nothing.

    Raises:
        CheckpointError: it is damaged, or asks for anything else.
    """
    return safe_load(path, MMENGINE)


def _of_content(content: dict[str, Any], path: Path) -> Named:
    """The weights that `kind_of_content` has seen: below a key of the tool's, or at the top."""
    state = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: '{name}' is no tensor.\nDownload the file again.")
        yield str(name), value


def _of_xtuner_folder(folder: Path) -> Named:
    """Its parts by the names that they have in a .pth."""
    parts: list[Named] = []
    for name, prefix in xtuner.ADAPTERS.items():
        if (folder / name).is_dir():
            parts.append(_adapter(folder / name, prefix))
    for name, prefix in xtuner.WHOLE.items():
        if (folder / name).is_dir():
            parts.append((f"{prefix}{inner}", value) for inner, value in read_tensors(folder / name))
    if (folder / "config.json").is_file():  # a language model that was trained whole
        parts.append((f"llm.{inner}", value) for inner, value in read_tensors(folder))
    return chain(*parts)


def _adapter(folder: Path, prefix: str) -> Named:
    """A peft adapter's weights by their names in a model."""
    file = next((folder / f"adapter_model.{end}" for end in ("safetensors", "bin") if _has(folder, end)), None)
    if file is None:
        raise CheckpointError(f"{folder}: holds no adapter_model.safetensors or .bin.\nIs the folder whole?")
    return ((f"{prefix}{name_in_model(name)}", value) for name, value in read_file(file))


def _has(folder: Path, end: str) -> bool:
    return (folder / f"adapter_model.{end}").is_file()
