"""Files written whole or not at all: temporary name, fsync, rename, fsync of the folder."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmtool.utils.errors import UsageError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, what was written there replaces `path`.

    A file and a folder both work. After an error, or a kill, `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    remove(temporary)
    try:
        yield temporary
        sync(temporary)
        if path.is_dir():  # a folder cannot be renamed over a filled folder
            remove(path)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
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


def sync(path: Path) -> None:
    """Flush a file, or every file below a folder, to disk."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for file in files:
        with open(file, "rb+") as handle:
            os.fsync(handle.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to disk."""
    descriptor = os.open(path, os.O_RDONLY)
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


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write indented UTF-8 JSON whole or not at all. Floats keep their full precision."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256(path: str | Path) -> str:
    """Hex digest of one file's content."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
