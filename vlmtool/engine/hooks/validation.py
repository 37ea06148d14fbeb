"""Loss on held-out samples."""

from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from vlmtool.engine.hooks.board import Board
from vlmtool.engine.hooks.due import is_due
from vlmtool.engine.log import LogFile
from vlmtool.utils.distributed import is_main, sum_over_ranks
from vlmtool.utils.terminal import err

LOG_FILE = "val_log.jsonl"


class ValidationHook(Hook):
    """Mean loss over the supervised tokens of a held-out set, every `every` steps and at the end.

    Args:
        loader: this rank's share of the set.
        every: optimiser steps; None: at the end only.
    """

    def __init__(self, loader: DataLoader[Any], every: int | None) -> None:
        self.loader, self.every = loader, every

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Validate if it is time."""
        if is_due(runner, self.every):
            loss = validation_loss(runner, self.loader)
            if is_main():
                self._write(Path(runner.work_dir), runner.iter, loss)

    def _write(self, folder: Path, step: int, loss: float) -> None:
        err().print(f"step {step}  validation loss {loss:.4f}")
        LogFile(folder / LOG_FILE).append({"step": step, "val_loss": loss})
        with Board(folder) as board:
            board.add({"val/loss": loss}, step)


@torch.no_grad()
def validation_loss(runner: Any, loader: DataLoader[Any]) -> float:
    """Summed loss over all ranks divided by the number of supervised tokens; the model's mode is put back."""
    model = runner.vlm
    was_training = model.training
    model.eval()
    total, count = 0.0, 0.0
    for batch in loader:
        runner.watch.enter(runner.iter - 1, "validating")
        batch = batch.to(runner.device)
        with runner.autocast():
            loss = model(batch.input_ids, batch.labels, batch.pixel_values)
        total += loss.total.item()
        count += int(loss.num_tokens)
    model.train(was_training)
    runner.watch.enter(runner.iter - 1, "sharing the validation loss")
    total, count = sum_over_ranks([total, count], runner.device)
    return total / count
