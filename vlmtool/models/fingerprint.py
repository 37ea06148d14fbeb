"""Content hashes of parts, computed once per file and remembered by path, size and modification time."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from vlmtool.utils.files import sha256, write_json

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pth")


def cache_file() -> Path:
    """Where hashes are remembered; `VLMTOOL_CACHE` moves the folder."""
    return Path(os.environ.get("VLMTOOL_CACHE", Path.home() / ".cache" / "vlmtool")) / "hashes.json"


def file_hashes(files: list[Path]) -> dict[Path, str]:
    """sha256 of each file."""
    cache = cache_file()
    try:
        known: dict[str, str] = json.loads(cache.read_text())
    except (OSError, json.JSONDecodeError):
        known = {}
    before = len(known)
    hashes = {}
    for file in files:
        stat = file.stat()
        key = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in known:
            known[key] = sha256(file)
        hashes[file] = known[key]
    if len(known) > before:
        with suppress(OSError):  # a read-only home only costs the time of hashing again
            write_json(cache, known)
    return hashes


def part_hash(folder: Path) -> str:
    """sha256 over the names and contents of a part's weight files.

    The same weights in other shards give another hash: parts are compared as files, as they were downloaded.
    """
    files = sorted({file for pattern in WEIGHT_FILES for file in folder.glob(pattern)})
    digest = hashlib.sha256()
    for file, value in file_hashes(files).items():
        digest.update(f"{file.name}:{value}\n".encode())
    return digest.hexdigest()
