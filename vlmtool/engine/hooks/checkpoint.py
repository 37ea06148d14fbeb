"""When checkpoints are written, and which are kept."""

import re
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from vlmtool.engine.run_folder import set_later_checkpoints_aside
from vlmtool.engine.saving import SaveError
from vlmtool.engine.state import state_folder, superseded
from vlmtool.models.checkpoint import last_checkpoint
from vlmtool.utils.distributed import is_main
from vlmtool.utils.files import remove
from vlmtool.utils.terminal import clean, err


class SaveHook(Hook):
    """Saves every `every` steps as iter_N.pth, at the last step, and at epochs' ends as epoch_N.pth where asked.

    Args:
        every: optimiser steps; None saves at the end only.
        keep: how many iter_N.pth stay.
        epochs: also save at the end of each epoch.
        on_error: `continue` or `stop` where a checkpoint cannot be written.
    """

    priority = "VERY_LOW"  # after the learning rates have moved on

    def __init__(self, every: int | None, keep: int, epochs: bool, on_error: str = "continue") -> None:
        self.every, self.keep, self.epochs, self.on_error = every, keep, epochs, on_error
        self._epochs_done = 0

    def before_train(self, runner: Any) -> None:
        """Note where a resumed run stands, and put away what an earlier one saved beyond it."""
        self._epochs_done = runner.epoch
        if is_main():
            set_later_checkpoints_aside(Path(runner.work_dir), runner.start, runner.iter, runner.epoch)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save if it is time, or if the run has been told to stop.

        Not while steps are skipped: nothing is learned in them, and a checkpoint from before the trouble would go.
        """
        step = runner.iter
        ends_epoch, self._epochs_done = runner.epoch > self._epochs_done, runner.epoch
        must = step == runner.max_iters or runner.train_loop.stop_signal is not None
        if self.epochs and ends_epoch:
            self._save(runner, f"epoch_{runner.epoch}.pth", must)
        elif must or (self.every is not None and step % self.every == 0 and not runner.train_loop.skipped_in_a_row):
            self._save(runner, f"iter_{step}.pth", must)

    def _save(self, runner: Any, name: str, must: bool) -> None:
        """Write a checkpoint, then drop old ones.

        Raises:
            SaveError: it could not be written, and the run ends here or was told to stop over it.
        """
        try:
            runner.save_checkpoint(runner.work_dir, name)
        except SaveError as error:
            if must or self.on_error == "stop":
                raise
            if is_main():
                err().print(clean(f"{error}\nThe run goes on and saves again in its time."))
            return
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
            remove(superseded(state_folder(numbered[step])))
