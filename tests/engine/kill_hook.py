"""A hook that kills its process with SIGKILL at a named point, as a power cut would."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from vlmtool.engine.hooks import validation

KILL = "VLMTOOL_TEST_KILL"  # "POINT NUMBER RANK": at the NUMBERth time that this rank comes by this point
POINTS = ("fsync", "rename", "mark", "validation", "step")


def counting_down(number: int, function: Callable[..., Any], applies: Callable[..., bool]) -> Callable[..., Any]:
    """`function`, but the `number`th call to which `applies` says yes kills the process before it begins."""
    left = [number]

    def call(*args: Any, **kwargs: Any) -> Any:
        left[0] -= applies(*args)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return call


class KillHook(Hook):
    """Prepares the kill that the environment asks for: before a flush to disk, between it and the rename, before
    `last_checkpoint` moves, in validation, or in a step before its gradients."""

    def before_run(self, runner: Any) -> None:
        """Put the trap in place."""
        point, number, rank = os.environ.get(KILL, "none 0 0").split()
        if rank != os.environ.get("RANK", "0"):
            return
        if point == "fsync":
            os.fsync = counting_down(int(number), os.fsync, lambda *_: True)
        elif point == "rename":
            os.replace = counting_down(int(number), os.replace, lambda source, target: ".iter_" in str(source))
        elif point == "mark":
            marks = lambda source, target: Path(target).name == "last_checkpoint"  # noqa: E731
            os.replace = counting_down(int(number), os.replace, marks)
        elif point == "validation":
            trap = counting_down(int(number), validation.validation_loss, lambda *_: True)
            validation.validation_loss = trap
        elif point == "step":
            runner.optim_wrapper.backward = counting_down(int(number), runner.optim_wrapper.backward, lambda *_: True)


def last_rows(path: Path, key: str) -> dict[int, Any]:
    """`key` of each step of a log; a later row of a step supersedes an earlier one."""
    return {row["step"]: row[key] for row in map(json.loads, path.read_text().splitlines())}
