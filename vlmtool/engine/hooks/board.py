"""TensorBoard curves, which a full disk may cut but must not turn into the end of a run.

Events are written at once by this thread: a SummaryWriter's own would die there, with a traceback of its own.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from vlmtool.utils.terminal import err

FOLDER = "tensorboard"


class Board:
    """Curves in `run_folder/tensorboard`.

    Args:
        first_step: points from this step on that an earlier run wrote are dropped from view.
    """

    def __init__(self, run_folder: Path, first_step: int | None = None) -> None:
        now = time.time()
        name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer: RecordWriter | None = None
        try:
            (run_folder / FOLDER).mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(open(run_folder / FOLDER / name, "wb"))  # noqa: SIM115
        except OSError as error:
            _tell(error)
        self._write(Event(wall_time=now, file_version="brain.Event:2"))
        if first_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=now, step=first_step, session_log=start))

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, values: Mapping[str, float], step: int) -> None:
        """A point for each curve."""
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))

    def close(self) -> None:
        """Nothing is written any more."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                writer.close()
            except OSError as error:
                _tell(error)

    def _write(self, event: Event) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write(event.SerializeToString())
            self._writer.flush()
        except OSError as error:  # the file now ends in half an event, after which nothing could be read
            self._writer = None
            _tell(error)


def _tell(error: OSError) -> None:
    err().print(f"TensorBoard curves end here: {error.strerror}. The run goes on.")
