"""Freed memory: counted by the page faults of a process of its own."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from vlmtool.utils.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def batch():
    for _ in range(10):
        parts = [torch.ones(megabytes << 18) for megabytes in (13, 20, 40, 13)]
batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
batch()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() >> 20)
"""


def fresh_megabytes(way: str) -> int:
    """What the kernel hands out anew for ten batches of 86 MB, of which two are there at a time."""
    done = subprocess.run([sys.executable, "-c", COUNT, way], capture_output=True, text=True, check=True, timeout=120)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_batches_take_the_memory_of_those_before():
    assert fresh_megabytes("keep") < 100 < 300 < fresh_megabytes("leave")  # 40 of 86 MB go back at every step, at least
