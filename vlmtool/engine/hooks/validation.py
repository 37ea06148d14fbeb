"""Loss on held-out samples."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from vlmtool.data.dataset import BadSample, ConversationDataset
from vlmtool.engine.hooks.board import Board
from vlmtool.engine.hooks.due import AFTER_SAVING, is_due, is_owed
from vlmtool.engine.hooks.trouble import note_bad_samples
from vlmtool.engine.log import LogFile
from vlmtool.utils.distributed import gather_lists, is_main, sum_over_ranks
from vlmtool.utils.terminal import err

LOG_FILE = "val_log.jsonl"


class ValidationHook(Hook):
    """Mean loss over the supervised tokens of a held-out set, every `every` steps and at the end.

    Args:
        dataset: the whole set, of which bad samples are listed and limited as those of the training are.
        loader: this rank's share of it.
        every: optimiser steps; None: at the end only.
    """

    priority = AFTER_SAVING

    def __init__(self, dataset: ConversationDataset, loader: DataLoader[Any], every: int | None) -> None:
        self.dataset, self.loader, self.every = dataset, loader, every
        self._bad: dict[str, None] = {}

    def before_train(self, runner: Any) -> None:
        """List what was found bad, and validate where the run before was stopped from it."""
        self._note(runner, self.dataset.bad, None)
        if is_owed(runner, self.every, Path(runner.work_dir) / LOG_FILE, "step", [runner.iter]):
            self._validate(runner)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Validate if it is time."""
        if is_due(runner, self.every):
            self._validate(runner)

    def _validate(self, runner: Any) -> None:
        loss, bad = validation_loss(runner, self.loader)
        if is_main():
            self._write(Path(runner.work_dir), runner.iter, loss)
        self._note(runner, bad, runner.iter)

    def _note(self, runner: Any, samples: list[BadSample], step: int | None) -> None:
        note_bad_samples(Path(runner.work_dir), self.dataset, self._bad, samples, step, "held-out samples")

    def _write(self, folder: Path, step: int, loss: float) -> None:
        err().print(f"step {step}  validation loss {loss:.4f}")
        LogFile(folder / LOG_FILE).append({"step": step, "val_loss": loss})
        with Board(folder) as board:
            board.add({"val/loss": loss}, step)


@torch.no_grad()
def validation_loss(runner: Any, loader: DataLoader[Any]) -> tuple[float, list[BadSample]]:
    """Summed loss over all ranks divided by the number of supervised tokens, and the samples that could not be used.

    The model's mode is put back.
    """
    model = runner.model if runner.strategy.is_sharded else runner.vlm
    was_training = model.training
    model.eval()
    total, count = 0.0, 0.0
    bad: list[BadSample] = []
    for batch, counts in _in_step(loader) if runner.strategy.is_sharded else ((batch, True) for batch in loader):
        runner.watch.enter(runner.iter - 1, "validating")
        batch = batch.to(runner.device)
        with runner.autocast():
            loss = model(batch.input_ids, batch.labels, batch.pixels, lengths=batch.lengths, packed=batch.is_packed)
        if not counts:
            continue
        total += loss.total.item()
        count += int(loss.num_tokens)
        bad += batch.bad_samples
    model.train(was_training)
    runner.watch.enter(runner.iter - 1, "sharing the validation loss")
    total, count, num_bad = sum_over_ranks([total, count, len(bad)], runner.device)
    return total / count, gather_lists(bad) if num_bad else []


def _in_step(loader: DataLoader[Any]) -> Iterator[tuple[Any, bool]]:
    """As many batches in every process: the last of a shorter share again, which does not count, and in place of none
    at all that of another process.
    """
    rounds = max(gather_lists([len(loader)]))
    batch = None
    for batch in loader:
        yield batch, True
    if batch is None:
        share: Any = loader.dataset  # a subset of the whole set
        batch = loader.collate_fn([share.dataset[0]])
    for _ in range(rounds - len(loader)):
        yield batch, False
