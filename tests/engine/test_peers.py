"""Processes that do not meet, that differ, or that lose one another: the person is told which it was."""

import os
import re
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.engine.command import ROOT
from tests.engine.conftest import PRETRAIN
from vlmtool.engine import peers
from vlmtool.engine.build import build_runner
from vlmtool.engine.device import start_process_group
from vlmtool.engine.launch import Launch, run_processes
from vlmtool.engine.peers import check_gpus, check_same
from vlmtool.recipe.load import load_recipe
from vlmtool.utils.distributed import local_gpu
from vlmtool.utils.errors import UsageError, VlmtoolError
from vlmtool.utils.failure import ERROR_FILE, LAUNCHED, report

GOES = """
import os, signal, torch, torch.distributed as dist
from vlmtool.engine.device import start_process_group
from vlmtool.engine.peers import losing_peers
from vlmtool.utils.distributed import gather_lists, rank, share_trained
with losing_peers():
    start_process_group("pytorch", torch.device("cpu"))
    torch.manual_seed(rank())
    part = torch.nn.Linear(2, 2)
    part.bias.requires_grad_(False)
    share_trained(part)
    for values in (part.weight, part.bias):
        first, second = gather_lists([values.tolist()])
        print(first == second, flush=True)
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(1))
"""


@pytest.fixture
def alone(monkeypatch):
    """`alone(WORLD_SIZE)`: this process is rank 0 of so many, on a port that nobody uses."""

    def set_variables(world_size: int = 1) -> None:
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": world_size, "MASTER_PORT": 29743}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")

    yield set_variables
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_taken_port_is_told(monkeypatch):
    for name in (LAUNCHED, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHELASTIC_SIGNALS_TO_HANDLE"):
        monkeypatch.setenv(name, "")  # put back after the test
        monkeypatch.delenv(name)
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"^PORT={port}: .*\n.*PORT={port + 1}$"):
            run_processes(Launch(2, 1, 0, "127.0.0.1", port), [])


def test_processes_that_do_not_come_are_told(alone):
    alone(world_size=2)
    with pytest.raises(VlmtoolError, match=r"did not meet at 127.0.0.1:29743: .*1/2.*\n.*every node"):
        start_process_group("pytorch", torch.device("cpu"), wait=timedelta(seconds=1))


def test_processes_share_what_is_trained_and_a_killed_one_is_told_by_the_other():
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29744", "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", GOES], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        ) for rank in (0, 1)
    ]  # fmt: skip
    said = [rank.communicate(timeout=100) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, -9], said
    assert [out for out, _ in said] == ["True\nFalse\n"] * 2  # the trained weight of rank 0, each its own frozen bias
    assert "VlmtoolError: stopped, as another process is gone" in said[0][1]


def test_processes_that_differ_are_told(monkeypatch):
    meta = {"recipe": {"schedule": {"lr": 1e-3}, "data": {"sets": [{"path": "a"}]}}, "parts": {"llm": {"sha256": "12"}}}
    monkeypatch.setattr(peers, "gather_lists", lambda own: [*own, *own])
    check_same(meta)
    for name, other in (("recipe.schedule.lr", 2e-3), ("recipe.data.sets.0.path", "b"), ("parts.llm.sha256", "34")):
        monkeypatch.setattr(peers, "gather_lists", lambda own, name=name, other=other: [*own, {**own[0], name: other}])
        with pytest.raises(VlmtoolError, match=rf"rank 1 differs from rank 0: {name} is {other!r}, not ") as error:
            check_same(meta)
        assert "same command" in str(error.value)


def test_each_process_says_which_it_is_where_nobody_collects(monkeypatch, capsys, alone):
    report(["no such file", "Give another."])
    for name in (LAUNCHED, ERROR_FILE):
        monkeypatch.delenv(name, raising=False)
    alone(world_size=2)
    report(["no such file"])
    assert capsys.readouterr().err == "Error: no such file\nGive another.\nError: rank 0: no such file\n"


@pytest.mark.parametrize(("visible", "index"), [(8, 3), (1, 0), (2, None)])
def test_each_process_has_a_gpu_of_its_own(monkeypatch, visible, index):
    """Slurm may show each task its own alone."""
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    if index is None:
        with pytest.raises(UsageError, match="sees 2 GPUs"):
            local_gpu()
    else:
        assert local_gpu() == torch.device("cuda", index)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    check_gpus(2)  # on a CPU there is no such limit
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="NPROC_PER_NODE=2: this machine shows 1 GPUs"):
        check_gpus(2)


def test_frozen_weights_stay_pages_of_their_file(small, standins, tmp_path, alone):
    """Not one page of the LLM's file was copied by building the model and its data-parallel wrapper."""
    alone()
    recipe = load_recipe(PRETRAIN, [*small, "llm.quantization=None"])
    runner = build_runner(recipe, "run", tmp_path, "pytorch").runner
    assert isinstance(runner.strategy.wrap(runner.vlm), DistributedDataParallel)
    frozen = [p for p in runner.vlm.llm.parameters() if not p.requires_grad]
    file = standins.llama / "model.safetensors"
    copied = copied_pages(file)
    assert frozen and copied, "the file is not mapped"
    for weight in frozen:
        assert any(start <= weight.data_ptr() < end for start, end in copied), tuple(weight.shape)
    assert set(copied.values()) == {0}


def copied_pages(file: Path) -> dict[tuple[int, int], int]:
    """{(start, end) of each mapping of a file: kB of it that this process wrote to, and has for itself}."""
    found, place = {}, None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            place = (int(head[1], 16), int(head[2], 16)) if line.endswith(str(file)) else None
        elif place is not None and line.startswith("Anonymous:"):
            found[place] = int(line.split()[1])
    return found
