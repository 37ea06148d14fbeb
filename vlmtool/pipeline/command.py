"""A command of vlmtool's as a process of its own: its memory is free once it ends, and it ends as it would alone."""

import os
import subprocess
import sys
from collections.abc import Sequence
from signal import SIGINT

from vlmtool.engine.launch import SHUTDOWN_SECONDS, PassedOnSignals
from vlmtool.engine.signals import Stopped
from vlmtool.utils.failure import LAUNCHED

GRACE = 2.0 * SHUTDOWN_SECONDS  # for a process that the terminal told of Ctrl-C, and for those it started


def run_command(words: Sequence[str]) -> int:
    """Run `vlmtool WORDS`; returns its exit code, 128 + the signal where one ended it.

    SIGTERM and SIGUSR1 are passed on; a training saves itself. Where this process is killed, a training notices and
    stops as on SIGTERM (`engine.orphan`).

    Raises:
        Stopped: a signal came just as the command ended well.
        KeyboardInterrupt: Ctrl-C; the command has ended.
    """
    environment = {**os.environ, LAUNCHED: str(os.getpid())}
    with PassedOnSignals() as signals:
        process = subprocess.Popen([sys.executable, "-m", "vlmtool", *words], env=environment)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            _end(process)
            raise
    if code == 0 and signals.received is not None:
        raise Stopped(signals.received)
    return code if code >= 0 else 128 - code


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a process that Ctrl-C ends; a terminal tells every process of it, `kill -INT` only one."""
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.send_signal(SIGINT)
        process.wait()
