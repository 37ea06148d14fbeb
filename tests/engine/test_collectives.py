"""Sums over processes lie on the device that the processes share: NCCL knows no other."""

import pytest
import torch

from tests.engine.command import command, start
from vlmtool.engine import loop, saving
from vlmtool.engine.hooks import due, validation
from vlmtool.models.checkpoint import last_checkpoint
from vlmtool.utils.distributed import Sum


def test_every_sum_names_the_device(run, standins, monkeypatch):
    callers = (saving, due, validation)
    seen = set()
    for module in callers:

        def note(values: list[float], device: torch.device, name: str = module.__name__) -> list[float]:
            seen.add((name, device))
            return values

        monkeypatch.setattr(module, "sum_over_ranks", note)

    class NotedSum(Sum):
        def __init__(self, values: torch.Tensor) -> None:
            super().__init__(values)
            seen.add((loop.__name__, values.device))

    monkeypatch.setattr(loop, "Sum", NotedSum)
    extra = ("schedule.val_every=1", f"data.val_path={str(standins.data)!r}")
    run("run", *extra)
    run("run", *extra, "schedule.max_steps=5", resume=True)
    assert seen == {(module.__name__, torch.device("cpu")) for module in (loop, *callers)}


@pytest.mark.gpu
def test_a_run_over_nccl_saves(small, tmp_path):
    """One process in an NCCL group, as torchrun starts it."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29731"}
    done = start(command(small, tmp_path, "schedule.save_every=2"), **alone)
    assert done.returncode == 0, done.stderr
    assert last_checkpoint(tmp_path) == tmp_path / "iter_4.pth"
