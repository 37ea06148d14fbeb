"""A run's logs: JSON Lines that survive a kill in the middle of a line and a full disk."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmtool.utils.files import finite
from vlmtool.utils.terminal import clean, err


class LogFile:
    """Appends rows. A row that cannot be written is lost, which is told once; the run goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_failing = False

    def append(self, row: dict[str, Any]) -> None:
        """Write a row at the end of the file; null for a number that is none or infinite."""
        try:
            with open(self.path, "a+b") as file:
                start = b"" if _ends_a_line(file) else b"\n"  # a row before was cut short
                file.write(start + json.dumps(finite(row), allow_nan=False).encode() + b"\n")
        except OSError as error:
            if not self._is_failing:
                err().print(clean(f"{self.path} cannot be written to: {error.strerror}. The run goes on."))
            self._is_failing = True
        else:
            self._is_failing = False


def _ends_a_line(file: Any) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log in the order of the file, without lines that were cut short.

    A step that was replayed after a resume has several rows; the caller takes the last. No file: no rows.
    """
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row
