"""Checkpoints that other tools wrote, read without running anything of theirs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmtool.models.checkpoint import safe_load
from vlmtool.utils.errors import CheckpointError, UsageError


class _Unread:
    """Gets everything for an object of the file that nobody needs, and keeps nothing of it."""

    def __init__(self, *values: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# What mmengine pickles beside tensors: histories of logged numbers, and numpy values in them. None of it is read, so
# nothing that the file names is called: each name gives the stand-in, and neither package has to be there.
# numpy 2 renamed numpy.core to numpy._core.
_NAMES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # of the methods of a history
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",  # of the bytes of a numpy array; torch allows it by itself
)
MMENGINE = dict.fromkeys(_NAMES, _Unread)


@dataclass(frozen=True)
class ForeignCheckpoint:
    """The weights by the names of their tool, and what the tool noted as text or number (its recipe, step, epoch)."""

    state_dict: dict[str, Tensor]
    meta: dict[str, str | int | float | bool | None]


def read_xtuner_checkpoint(path: str | Path) -> ForeignCheckpoint:
    """Read a `.pth` of XTuner's, which is a checkpoint of mmengine's.

    Raises:
        UsageError: there is no such file, or it is a folder of DeepSpeed's.
        CheckpointError: it is damaged, no checkpoint of mmengine's, or asks for anything but tensors and the log of
            mmengine; that is named.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(
            f"{path}: a folder of DeepSpeed's shards, not one .pth.\n"
            "Convert it with the tool that wrote it (xtuner convert pth_to_hf), and use that folder."
        )
    if not path.is_file():
        raise UsageError(f"There is no file '{path}'.\nCheck the path.")
    content = safe_load(path, MMENGINE)
    state, meta = (content.get(key) if isinstance(content, dict) else None for key in ("state_dict", "meta"))
    if not (isinstance(state, dict) and isinstance(meta, dict)):
        raise CheckpointError(f"{path}: not a checkpoint of mmengine's: it has no 'meta' and 'state_dict'.")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise CheckpointError(f"{path}: '{name}' in its state_dict is no tensor.\nThe file is damaged.")
    plain = {key: value for key, value in meta.items() if isinstance(value, str | int | float | bool | None)}
    return ForeignCheckpoint(state, plain)
