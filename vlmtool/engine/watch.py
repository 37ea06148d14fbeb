"""Which rank hangs: each writes down what it does, and all read it when nothing moves any more.

Collectives themselves cannot tell: a rank that waits and a rank that is waited for look the same from outside, and
their time-out would also strike while one rank honestly works for an hour before the first step.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from vlmtool.utils.distributed import gather_lists, rank, world_size
from vlmtool.utils.errors import VlmtoolError
from vlmtool.utils.failure import report
from vlmtool.utils.files import remove, write_text
from vlmtool.utils.terminal import clean, err

FOLDER = ".watch"  # in the run folder
# What a rank does within a step, in this order; the rank that is behind the others is the one they wait for.
PHASES = (
    "drawing data", "forward pass", "counting tokens", "sharing the loss", "backward pass", "drawing the next data",
    "sharing gradients", "writing a checkpoint", "waiting for the checkpoint", "validating",
    "sharing the validation loss", "answering sample prompts", "answering a benchmark",
)  # fmt: skip


@dataclass(frozen=True)
class Sign:
    """What a rank last said: signs of life so far, the step it is in, counted from 0, and its phase."""

    count: int
    step: int
    phase: str

    @property
    def progress(self) -> tuple[int, int]:
        """How far the rank is; comparable between ranks."""
        return self.step, PHASES.index(self.phase)


def hanging(signs: Mapping[int, Sign | None]) -> list[int]:
    """The ranks that are behind the others; those that never gave a sign before all."""
    silent = [number for number, sign in signs.items() if sign is None]
    if silent:
        return silent
    progress = {number: sign.progress for number, sign in signs.items() if sign is not None}
    return [number for number, place in progress.items() if place == min(progress.values())]


def hang_message(signs: Mapping[int, Sign | None], seconds: float, run_folder: Path) -> str:
    """What to tell when no rank moved for so long."""
    behind = hanging(signs)
    named = ", ".join(f"rank {number} ({_place(signs[number])})" for number in behind)
    if len(behind) == len(signs):
        who = f"Every rank stands at the same place: {named}"
    else:
        others = ", ".join(f"rank {n} ({_place(sign)})" for n, sign in signs.items() if n not in behind)
        who = f"{named} hangs; the others wait: {others}"
    return (
        f"{who}. No sign of life for {seconds:.0f} s (runtime.hang_timeout).\n"
        f"Where each rank's code stands: {run_folder}/hang_rank*.txt\n"
        "Mend the cause (a dead file system, a worker without memory, a GPU error), then go on with --resume."
    )


def _place(sign: Sign | None) -> str:
    return f"step {sign.step + 1}, {sign.phase}" if sign is not None else "not begun"


def common_id() -> str:
    """A name for this start of the run, the same on every rank; called by all of them."""
    return gather_lists([uuid4().hex])[0]


class Watch:
    """Notes what this rank does; a thread shares it through the run folder and looks at the others.

    Args:
        run_folder: shared by all ranks.
        timeout: seconds without a sign from any rank after which the run ends.
        start_id: `common_id`; signs of a run that was killed here carry another.
    """

    def __init__(self, run_folder: Path, timeout: float, start_id: str) -> None:
        self.folder = run_folder / FOLDER
        self.run_folder = run_folder
        self.timeout = timeout
        self.start_id = start_id
        self._cannot_write = False
        self._sign = Sign(0, 0, PHASES[0])
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def enter(self, step: int, phase: str) -> None:
        """A sign of life: this rank begins `phase` (of `PHASES`) in `step`, counted from 0."""
        self._sign = Sign(self._sign.count + 1, step, phase)

    def start(self) -> None:
        """Watch, where there are others to wait for."""
        if world_size() == 1:
            return
        self._share()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watch")
        self._thread.start()

    def stop(self) -> None:
        """End watching."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            with suppress(OSError):
                remove(self._file(rank()))

    def _watch(self) -> None:
        seen: dict[int, Sign | None] = {}
        quiet_since = time.monotonic()
        while not self._end.wait(min(1.0, self.timeout / 10)):
            self._share()
            now = {number: self._read(number) for number in range(world_size())}
            now[rank()] = self._sign  # as it is, also where the disk is full: while this rank moves, all do
            if now != seen:
                seen, quiet_since = now, time.monotonic()
            elif time.monotonic() - quiet_since > self.timeout:
                self._give_up(seen)

    def _give_up(self, signs: Mapping[int, Sign | None]) -> None:
        """Leave this rank's stack behind and end the process: its main thread will not come back."""
        try:
            with suppress(OSError), open(self.run_folder / f"hang_rank{rank()}.txt", "w", encoding="utf-8") as file:
                faulthandler.dump_traceback(file)
            _report(hang_message(signs, self.timeout, self.run_folder).splitlines())
        finally:
            os._exit(VlmtoolError.exit_code)

    def _file(self, number: int) -> Path:
        return self.folder / f"rank{number}.json"

    def _share(self) -> None:
        """A sign that cannot be written is told once and otherwise lost: a full disk is no reason to end a run."""
        try:
            write_text(self._file(rank()), json.dumps({"start_id": self.start_id, **asdict(self._sign)}))
        except OSError as error:
            if not self._cannot_write:
                err().print(clean(f"{self.folder} cannot be written to: {error.strerror}. The run goes on."))
            self._cannot_write = True
        else:
            self._cannot_write = False

    def _read(self, number: int) -> Sign | None:
        """The last sign of a rank in this start; None where it gave none."""
        try:
            values = json.loads(self._file(number).read_text(encoding="utf-8"))
            return Sign(**values) if values.pop("start_id", None) == self.start_id else None
        except (OSError, ValueError, TypeError, AttributeError):
            return None


def _report(lines: Sequence[str]) -> None:
    try:
        report(lines)
    except OSError:  # no room for this process's last words either
        print("\n".join(clean(line) for line in lines), file=sys.stderr)
