"""`vlmtool train` as a command of its own, on the stand-ins."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.engine.conftest import FINETUNE
from vlmtool.engine.log import read_log

ROOT = Path(__file__).parents[2]


def command(small: list[str], folder: Path, *overrides: str) -> list[str]:
    sets = [word for override in [*small, *overrides] for word in ("--set", override)]
    return [sys.executable, "-m", "vlmtool", "train", FINETUNE, "--work-dir", str(folder), *sets]


def environment(processes: int = 1, port: int = 0, **more: str) -> dict[str, str]:
    several = {"NPROC_PER_NODE": str(processes), "PORT": str(port)} if processes > 1 else {}
    return {**os.environ, "PYTHONPATH": str(ROOT), **several, **more}


def wait_for_step(log: Path, step: int, run: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not (log.is_file() and any(row["step"] >= step for row in read_log(log))):
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < end, f"no step {step}"
        time.sleep(0.05)


def start(words: list[str], processes: int = 1, port: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `more` joins its environment."""
    return subprocess.run(
        words, env=environment(processes, port, **more), capture_output=True, text=True, timeout=300, check=False
    )


def hook(name: str, **arguments: object) -> str:
    """An override that adds a hook of `faults`."""
    return f"mmengine=dict(custom_hooks=[{dict(type=f'tests.engine.faults.{name}', **arguments)!r}])"
