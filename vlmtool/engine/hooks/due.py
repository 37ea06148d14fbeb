"""When the things beside the steps are due."""

from typing import Any


def is_due(runner: Any, every: int | None) -> bool:
    """Every `every` steps and after the last; not where the run has been told to stop and only has time to save.

    Args:
        every: optimiser steps; None: after the last only.
    """
    if runner.iter == runner.max_iters:
        return True
    return every is not None and runner.iter % every == 0 and runner.train_loop.stop_signal is None
