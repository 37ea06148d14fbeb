"""SIGTERM and SIGUSR1, with which a cluster takes its machines back: a word to save and stop, not to die."""

import signal
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(SystemExit):
    """The run has saved itself and ends with 128 + the signal, as a shell reports one."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class StopSignals:
    """Notes the first stopping signal while its block runs; the training asks for it between steps."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in STOPPING:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:  # a cluster may send it twice, to the launcher and to us
            self.received = number

    def counts(self) -> list[float]:
        """One number for each of `STOPPING`, 1 where it came: summed over the ranks, all learn of it in one step."""
        return [float(self.received == number) for number in STOPPING]


def agreed(counts: list[float]) -> int | None:
    """The signal to follow, from `StopSignals.counts` summed over the ranks."""
    return next((int(number) for number, count in zip(STOPPING, counts, strict=True) if count), None)
