"""When the things beside the steps are due."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlmtool.engine.log import read_log
from vlmtool.utils.distributed import is_main, sum_over_ranks

AFTER_SAVING = "LOWEST"  # priority of a hook: what it raises, or a kill in it, costs no checkpoint


def is_due(runner: Any, every: int | None) -> bool:
    """Every `every` steps and after the last; not where the run has been told to stop and only has time to save.

    Args:
        every: optimiser steps; None: after the last only.
    """
    if runner.iter == runner.max_iters:
        return True
    return every is not None and runner.iter % every == 0 and runner.train_loop.stop_signal is None


def is_owed(runner: Any, every: int | None, log: Path, key: str, expected: Iterable[Any]) -> bool:
    """Due in the step after which a run goes on, but never written down: it was stopped or killed between the two.

    Args:
        every: optimiser steps; None: after the last only.
        log: holds a row for each value of `key` that is `expected` in a step. One rank reads it, and all get its word.
    """
    if runner.iter == 0 or not is_due(runner, every):
        return False
    is_missing = False
    if is_main():
        done = {row.get(key) for row in read_log(log) if row.get("step") == runner.iter}
        is_missing = not done.issuperset(expected)
    return bool(sum_over_ranks([float(is_missing)], runner.device)[0])
