"""The data of the steps, in their order: drawn when a step begins, or before it, in time that would pass with waiting.

Processes that train together seldom take the same time for a step. One that is early has nothing to do until the
gradients of the others come; so it begins a step in which it may be the late one.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vlmtool.data.collate import Batch
from vlmtool.engine.batches import draw

COUNTED = ("num_supervised", "num_tokens", "num_samples", "num_images", "num_encoded", "num_views", "num_bad_samples")
MOST_AHEAD = 4  # steps


@dataclass(frozen=True)
class StepData:
    """What this process has of a step."""

    micro_batches: Sequence[Batch]
    counts: Sequence[float]
    """`COUNTED`, of the batches as they were drawn."""
    waited: float
    """Seconds until they were there."""


class StepDataQueue:
    """Draws the batches of one step after the other.

    Args:
        batches: of all `steps`.
        steps: those to come, counted from 0.
        num_micro_batches: of a step, in this process.
        prepared: what a step's first batch is put through when it is drawn ahead; trained weights will have moved until
            the batch is used, and must have no part in it.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        steps: range,
        num_micro_batches: Callable[[int], int],
        prepared: Callable[[Batch], Batch],
    ) -> None:
        self._batches, self._steps = batches, steps
        self._num_micro_batches, self._prepared = num_micro_batches, prepared
        self._ahead: deque[StepData | Exception] = deque()

    def take(self) -> StepData:
        """The next step's.

        Raises:
            VlmtoolError: a sample of this step cannot be used, or what reads the data has ended.
        """
        data = self._ahead.popleft() if self._ahead else self._draw()
        if isinstance(data, Exception):
            raise data
        return data

    def look_ahead(self, is_early: Callable[[], bool]) -> None:
        """Draw and prepare the data of more steps while there is time.

        What goes wrong is raised by its own step, so that those before it are done and saved.
        """
        while self._steps and len(self._ahead) < MOST_AHEAD and is_early():
            try:
                data = self._draw()
                first, *others = data.micro_batches
                self._ahead.append(replace(data, micro_batches=[self._prepared(first), *others]))
            except Exception as error:
                self._ahead.append(error)
                self._steps = range(0)

    def _draw(self) -> StepData:
        start = time.perf_counter()
        step, self._steps = self._steps[0], self._steps[1:]
        micro_batches = [draw(self._batches) for _ in range(self._num_micro_batches(step))]
        counts = [float(sum(getattr(batch, name) for batch in micro_batches)) for name in COUNTED]
        return StepData(micro_batches, counts, time.perf_counter() - start)
