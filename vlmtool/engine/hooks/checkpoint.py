"""When checkpoints are written, and which are kept."""

import re
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from vlmtool.engine.state import state_folder
from vlmtool.models.checkpoint import last_checkpoint
from vlmtool.utils.distributed import is_main
from vlmtool.utils.files import remove


class SaveHook(Hook):
    """Saves every `every` steps as iter_N.pth, at the last step, and at epochs' ends as epoch_N.pth where asked.

    Args:
        every: optimiser steps; None saves at the end only.
        keep: how many iter_N.pth stay.
        epochs: also save at the end of each epoch.
    """

    priority = "VERY_LOW"  # after the learning rates have moved on

    def __init__(self, every: int | None, keep: int, epochs: bool) -> None:
        self.every, self.keep, self.epochs = every, keep, epochs
        self._epochs_done = 0

    def before_train(self, runner: Any) -> None:
        """Note where a resumed run stands."""
        self._epochs_done = runner.epoch

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save if it is time."""
        step = runner.iter
        ends_epoch, self._epochs_done = runner.epoch > self._epochs_done, runner.epoch
        if self.epochs and ends_epoch:
            runner.save_checkpoint(runner.work_dir, f"epoch_{runner.epoch}.pth")
        elif step == runner.max_iters or (self.every is not None and step % self.every == 0):
            runner.save_checkpoint(runner.work_dir, f"iter_{step}.pth")
            if is_main():
                drop_old(Path(runner.work_dir), self.keep)


def drop_old(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` iter_N.pth with their states; never the one `last_checkpoint` names."""
    numbered = {
        int(m.group(1)): f for f in folder.glob("iter_*.pth") if (m := re.fullmatch(r"iter_(\d+)\.pth", f.name))
    }
    for step in sorted(numbered)[:-keep]:
        if numbered[step] != last_checkpoint(folder):
            remove(numbered[step])
            remove(state_folder(numbered[step]))
