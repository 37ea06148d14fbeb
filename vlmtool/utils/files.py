"""Files written whole or not at all: temporary name, fsync, rename, fsync of the folder."""

import fcntl
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from vlmtool.utils.errors import CheckpointError, UsageError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, what was written there replaces `path`.

    A file and a folder both work; a file never replaces a folder. After an error `path` is as it was. After a kill it
    is the old one or the new one, whole; between the two renames of a folder the old one stands beside it, as
    `aside(path)`, and the next call for the same `path` puts it back first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    _settle(path, temporary)
    try:
        yield temporary
        sync(temporary)
        if path.is_dir() and temporary.is_dir():  # a folder cannot be renamed over a filled folder
            os.replace(path, aside(path))
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        _settle(path, temporary)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process of this machine after the other through, by a lock beside `path` that ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        with suppress(OSError):  # a file system without locks: both write, each whole
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def leftovers(path: Path) -> list[Path]:
    """Temporary folders and files of `path` that processes of this machine, dead by now, have left."""
    named = re.compile(re.escape(f".{path.name}.tmp") + r"(\d+)")
    found = ((match, file) for file in path.parent.glob(".*") if (match := named.fullmatch(file.name)))
    return [file for match, file in found if not psutil.pid_exists(int(match[1]))]


def aside(path: Path) -> Path:
    """Where a folder stands while a new one takes its name."""
    return path.with_name(f".{path.name}.vlmtool-old")


def _settle(path: Path, temporary: Path) -> None:
    """The old folder goes where the new one has its name, else it gets it back."""
    remove(temporary)
    if os.path.lexists(aside(path)):
        # Renamed before it is deleted, so that a kill leaves nothing half-deleted that could be put back.
        os.replace(aside(path), temporary if os.path.lexists(path) else path)
        remove(temporary)


def check_writable(folder: Path, option: str) -> None:
    """Make sure that `folder` can be written to, or be made; nothing is made yet.

    Raises:
        UsageError: it cannot; `option` names what gave it.
    """
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir():
        reason = f"'{existing}' is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"'{existing}' may not be written to"
    else:
        return
    raise UsageError(f"{option} {folder}: cannot be made or written to: {reason}.\nGive a folder you may write to.")


def no_file(path: str | Path) -> str:
    """What stands at a path where there is no file, for messages."""
    return f"'{path}' is a folder, not a file" if Path(path).is_dir() else f"there is no file '{path}'"


def sync(path: Path) -> None:
    """Flush a file, or a folder and all that is below it, to disk."""
    for entry in (path, *path.rglob("*")):
        if entry.is_file() or entry.is_dir():
            _flush(entry)


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to disk."""
    _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)  # which is enough, and all that a file without write permission allows
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or a folder; nothing happens when it does not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let an error of the system, such as a full disk, name the file that was written; it leaves that out."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    with naming(path), atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write indented UTF-8 JSON whole or not at all. Floats keep their full precision; see `finite`."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """Plain values with None where a number is none (NaN) or infinite: JSON has no word for these.

    Source: RFC 8259, section 6, https://www.rfc-editor.org/rfc/rfc8259#section-6.
    """
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: it cannot be read. ValueError: it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file that belongs to a checkpoint or a part.

    Raises:
        CheckpointError: it is missing, damaged or something else.
    """
    remedy = "Is the folder whole? Copy or download it again."
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}\n{remedy}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object.\n{remedy}")
    return content


def sha256(path: str | Path) -> str:
    """Hex digest of one file's content."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
