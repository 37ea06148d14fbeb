"""DeepSpeed's checkpoint files, read safely and written whole. DeepSpeed itself unpickles whatever stands in them.

`engine.checkpoint_engine = SafeCheckpointEngine()` after `deepspeed.initialize` puts it in place.
"""

from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from vlmtool.models.checkpoint import safe_load
from vlmtool.utils.files import atomic_path

# What the optimiser shards of ZeRO hold beside tensors and plain values.
ALLOWED = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in (ZeroStageEnum, LossScaler, fragment_address)}


class SafeCheckpointEngine(CheckpointEngine):
    """How a DeepSpeed engine reads and writes the files of its checkpoints."""

    def __init__(self, config_params: Any = None) -> None:
        super().__init__(config_params)
        self.name = type(self).__name__
        self._problem: OSError | RuntimeError | None = None

    def create(self, info: CheckpointCommitInfo) -> None:
        """Nothing is prepared: each file appears whole, by itself."""

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        """Write one file whole or not at all, flushed to disk. What goes wrong waits for `raise_problem`: the other
        processes wait in the engine's own barriers for this one.
        """
        try:
            with atomic_path(path) as temporary:
                torch.save(_plain(state_dict), temporary)
        except (OSError, RuntimeError) as error:
            self._problem = self._problem or error

    def raise_problem(self) -> None:
        """What went wrong since the last call.

        Raises:
            OSError, RuntimeError: a file could not be written.
        """
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file.

        Raises:
            CheckpointError: it is damaged, or asks for more than tensors, plain values and `ALLOWED`.
        """
        return safe_load(Path(path), ALLOWED, map_location)

    def commit(self, info: CheckpointCommitInfo) -> bool:
        """Every file is on disk already."""
        return True


def _plain(value: Any) -> Any:
    """The same, each tensor without what stage 3 notes on it, which would be pickled too."""
    if isinstance(value, dict):
        return type(value)((key, _plain(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value.detach() if isinstance(value, torch.Tensor) else value
