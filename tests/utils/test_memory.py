"""The peak of memory is this process's own."""

import subprocess
import sys

import pytest

from vlmtool.utils import memory

MEGABYTE = 2**20
CHILD = "import sys; from vlmtool.utils.memory import peak_rss; {more}; print(peak_rss())"


def peak_of_child(more: str) -> float:
    """Of a process that a large one started, which is what getrusage() would tell."""
    script = CHILD.format(more=more)
    run = f"subprocess.run([sys.executable, '-c', {script!r}])"
    parent = f"import subprocess, sys; held = bytearray(b'x') * {600 * MEGABYTE}; {run}"
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    return int(done.stdout) / MEGABYTE


@pytest.mark.skipif(not memory.STATUS.is_file(), reason="only Linux tells a process's own peak")
def test_what_the_starting_process_had_is_not_counted():
    small, large = peak_of_child("pass"), peak_of_child(f"bytearray(b'x') * {200 * MEGABYTE}")
    assert small < 300
    assert small + 190 < large < small + 210


def test_without_proc_the_system_is_asked(monkeypatch, tmp_path):
    own = memory.peak_rss()
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    assert memory.peak_rss() >= 0.9 * own
