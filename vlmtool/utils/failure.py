"""How a process says why it failed: on stderr, or to the launcher that started it with others."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vlmtool.utils.terminal import clean

LAUNCHED = "VLMTOOL_LAUNCHED"  # for the processes that vlmtool itself starts: the number of the one that did
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where torchrun looks for a process's last words


def report(lines: Sequence[str]) -> None:
    """Print an error's lines, the first with "Error: " before it.

    Among processes of one launch only the first to fail knows the cause, and the others complain that it is gone. So
    they leave their lines, and the time, to the launcher, which prints those of the first. Processes that something
    else started, such as Slurm, say which they are: their lines arrive in any order.
    """
    file = os.environ.get(ERROR_FILE)
    if file and LAUNCHED in os.environ:
        words = {"message": "\n".join(lines), "timestamp": time.time()}
        Path(file).write_text(json.dumps(words), encoding="utf-8")
        return
    is_one_of_several = "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
    who = f"rank {os.environ.get('RANK')}: " if is_one_of_several else ""
    print("\n".join(clean(line) for line in [f"Error: {who}{lines[0]}", *lines[1:]]), file=sys.stderr)
