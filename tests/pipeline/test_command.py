"""A command of the pipeline's ends as it would alone, and is told what the pipeline is told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlmtool.pipeline.command import run_command

ROOT = Path(__file__).parents[2]
PARENT = """
import signal, sys
from vlmtool.pipeline.command import run_command
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without it
sys.exit(run_command(['x']))
"""
# Stands for the program: found first, as the folder in which the pipeline was started comes first.
CHILD = """
import signal, sys, time
from pathlib import Path

def stop(number, frame):
    Path("told").write_text(str(number))
    sys.exit(128 + number)

for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, stop)
Path("began").touch()
time.sleep(60)
"""


def test_the_exit_code_and_the_error_are_the_commands_own(capfd):
    assert run_command(["--version"]) == 0
    assert run_command(["config", "show", "nothing"]) == 2
    assert "Error: There is no recipe 'nothing'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, -signal.SIGINT)]
)
def test_a_signal_reaches_the_command(tmp_path, number, code):
    (tmp_path / "vlmtool").mkdir()
    (tmp_path / "vlmtool" / "__init__.py").touch()
    (tmp_path / "vlmtool" / "__main__.py").write_text(CHILD)
    (tmp_path / "parent").mkdir()
    (tmp_path / "parent" / "main.py").write_text(PARENT)
    words = [sys.executable, str(tmp_path / "parent" / "main.py")]
    run = subprocess.Popen(words, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, start_new_session=True)
    end = time.monotonic() + 60
    while not (tmp_path / "began").exists():
        assert time.monotonic() < end and run.poll() is None
        time.sleep(0.05)
    os.killpg(run.pid, number) if number == signal.SIGINT else run.send_signal(number)  # a terminal tells all of them
    assert run.wait(30) == code
    assert (tmp_path / "told").read_text() == str(int(number))
