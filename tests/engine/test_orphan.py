"""Ranks whose launcher was killed save themselves and go; what others started is left alone."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from tests.engine.command import ROOT, command, environment, start, wait_for_step
from tests.engine.conftest import log_rows
from vlmtool.models.checkpoint import last_checkpoint, read_checkpoint
from vlmtool.utils.failure import LAUNCHED

LIVES = """
import sys, time
from pathlib import Path
from vlmtool.engine.orphan import following_launcher
with following_launcher(look_every=0.1):
    Path(sys.argv[1], "began").touch()
    time.sleep(1.5)
Path(sys.argv[1], "lived").touch()
"""


def test_ranks_save_themselves_when_their_launcher_is_killed(small, tmp_path):
    folder, said = tmp_path / "run", tmp_path / "stderr"
    words = command(small, folder, "schedule.max_steps=100000", "schedule.batch_size=2", "data.num_workers=1")
    with open(said, "w") as stderr:
        run = subprocess.Popen(words, env=environment(2, 29730), stderr=stderr)
    children: list[psutil.Process] = []
    try:
        wait_for_step(folder / "train_log.jsonl", 3, run)
        children = psutil.Process(run.pid).children(recursive=True)
        assert sum("RANK" in child.environ() for child in children) >= 2
        run.kill()
        run.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive, said.read_text()
    finally:
        for process in children:
            if process.is_running():
                process.kill()
    told = said.read_text()
    newest = last_checkpoint(folder)
    assert newest is not None and "Traceback" not in told
    assert told.count(f"The launcher (process {run.pid}) is gone") == 1
    assert f"Stopped by a signal. {newest} is the newest checkpoint" in told
    step = read_checkpoint(newest).meta["step"]
    assert step == max(log_rows(folder))
    done = start([*words, "--set", f"schedule.max_steps={step + 2}", "--resume"], 2, 29731)
    assert done.returncode == 0 and sorted(log_rows(folder)) == list(range(1, step + 3)), done.stderr


@pytest.mark.parametrize("is_ours", [True, False])
def test_only_what_vlmtool_started_follows_its_launcher(tmp_path, is_ours):
    """The shell that starts the process ends at once."""
    words = f'{f"{LAUNCHED}=$$ " * is_ours}"$@" & until [ -e {tmp_path}/began ]; do sleep 0.05; done'
    environ = {name: value for name, value in os.environ.items() if name != LAUNCHED}
    subprocess.run(
        ["sh", "-c", words, "sh", sys.executable, "-c", LIVES, tmp_path],
        env={**environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=60, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(2.5)
    assert (tmp_path / "lived").exists() != is_ours
