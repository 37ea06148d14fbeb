"""A run that is killed again and again, and resumed each time, ends as the run that nobody disturbed: bit for bit."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import FINETUNE
from tests.engine.kill_hook import KILL, POINTS, last_rows
from vlmtool.models.checkpoint import last_checkpoint, read_checkpoint

STEPS_PER_KILL = 10  # more than a killed run gets done: the next one has something left to do
ROOT = Path(__file__).parents[2]


def command(small: list[str], data: Path, folder: Path, quantization: str, processes: int, steps: int) -> list[str]:
    """A training with workers, dropout, validation and frequent checkpoints."""
    overrides = [
        *small, "llm.lora=dict(r=4, alpha=8, dropout=0.1)", f"llm.quantization={quantization}", "data.num_workers=1",
        f"schedule.batch_size={4 // processes}", "schedule.save_every=3", "schedule.val_every=5",
        f"schedule.max_steps={steps}", f"data.val_path={str(data)!r}", "schedule.log_every=100",
        "mmengine=dict(custom_hooks=[dict(type='tests.engine.kill_hook.KillHook')])",
    ]  # fmt: skip
    sets = [word for override in overrides for word in ("--set", override)]
    return [sys.executable, "-m", "vlmtool", "train", FINETUNE, "--work-dir", str(folder), *sets]


def start(words: list[str], kill: str = "", processes: int = 1, port: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({KILL: kill} if kill else {})
    if processes > 1:
        environment |= {"NPROC_PER_NODE": str(processes), "PORT": str(port)}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1800)


def survive(small, data: Path, folder: Path, kills: list[str], quantization: str, processes: int, port: int) -> None:
    """Run unbroken, then with the kills, and compare."""
    steps = STEPS_PER_KILL * (len(kills) + 1)
    whole = command(small, data, folder / "whole", quantization, processes, steps)
    done = start(whole, processes=processes, port=port)
    assert done.returncode == 0, done.stderr
    words = command(small, data, folder / "killed", quantization, processes, steps)
    resumed = 0
    for kill in kills:
        done = start([*words, *["--resume"] * bool(resumed)], kill, processes, port)
        assert done.returncode == (-9 if processes == 1 else 1), (kill, done.stderr)
        if processes > 1:
            rank = kill.split()[-1]
            errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
            assert len(errors) == 1 and errors[0].startswith(f"Error: rank {rank}: was killed by SIGKILL"), done.stderr
        resumed += 1
    done = start([*words, "--resume"], processes=processes, port=port)
    assert done.returncode == 0, done.stderr
    for log, key in (("train_log.jsonl", "loss"), ("train_log.jsonl", "grad_norm"), ("val_log.jsonl", "val_loss")):
        unbroken = last_rows(folder / "whole" / log, key)
        assert last_rows(folder / "killed" / log, key) == unbroken
        assert len(unbroken) == (steps if log == "train_log.jsonl" else steps // 5)
    ours, theirs = (read_checkpoint(last_checkpoint(folder / name)).state_dict for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    left = {f.name for f in (folder / "killed").iterdir()} - {f.name for f in (folder / "whole").iterdir()}
    # mmengine makes a folder per start; logs of kills before the first save, and what never got its mark, stand aside.
    left = {name for name in left if not name.startswith(("20", "earlier_"))}
    assert not left, f"files of killed runs remain: {left}"


def kill_plan(seed: int, count: int, processes: int = 1) -> list[str]:
    """`count` kills, each named point in turn and at random times, such that the run as a whole still moves on."""
    rng = random.Random(seed)
    latest = {"fsync": 25, "rename": 6, "mark": 3, "validation": 2, "step": 9}
    points = [POINTS[number % len(POINTS)] for number in range(count)]
    return [
        f"{point} {rng.randint(1, latest[point])} {0 if point in ('rename', 'mark') else rng.randrange(processes)}"
        for point in points
    ]


def test_killed_at_every_point(small, standins, tmp_path):
    survive(small, standins.data, tmp_path, [f"{point} 2 0" for point in POINTS], "None", 1, 0)


@pytest.mark.soak
@pytest.mark.parametrize("quantization", ["None", "'nf4'"])
def test_thirty_kills(small, standins, tmp_path, quantization):
    survive(small, standins.data, tmp_path, kill_plan(7, 30), quantization, 1, 0)


@pytest.mark.soak
def test_ten_kills_of_one_of_two_processes(small, standins, tmp_path):
    survive(small, standins.data, tmp_path, kill_plan(11, 10, 2), "None", 2, 29641)
