"""Content hashes of parts, computed once per file and remembered by path, size and modification time."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtool.utils.files import read_json, sha256, write_json

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pth")
SHORT = 12  # hex digits by which a hash is told

# Keys of a config.json that say who wrote it and in which type, not what the part computes.
_HISTORY = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}


@dataclass(frozen=True)
class Identity:
    """What makes a part that part: its weights, and the config.json that says what is computed with them.

    The same tensors under another `rope_theta` or activation are another model. The tokenizer and the image processor
    are no part of it: a model folder brings its own, which training and answering read.
    """

    weights: str
    """`part_hash`; empty where it was not recorded."""
    config: str = ""
    """`config_hash`; empty where it was not recorded: older manifests have none."""

    def difference(self, found: "Identity") -> tuple[str, str, str] | None:
        """("weights" or "config.json", the hash here, the hash of `found`), both short; None where they are the same.

        What either of the two does not know is not compared.
        """
        for kind, mine, other in (("weights", self.weights, found.weights), ("config.json", self.config, found.config)):
            if mine and other and mine != other:
                return kind, mine[:SHORT], other[:SHORT]
        return None


def identity_of(folder: Path) -> Identity:
    """Of the part that lies in `folder`."""
    return Identity(part_hash(folder), config_hash(folder))


def part_hash(folder: Path) -> str:
    """sha256 over the names and contents of a part's weight files.

    The same weights in other shards give another hash: parts are compared as files, as they were downloaded.
    """
    return weights_hash(file_hashes(weight_files(folder)))


def weight_files(folder: Path) -> list[Path]:
    """The files of a part that hold weights, sorted."""
    return sorted({file for pattern in WEIGHT_FILES for file in folder.glob(pattern)})


def foreign_hash(path: Path) -> str:
    """sha256 of a file; of a folder, of all weight files in it and its sub-folders, as `part_hash` of one without."""
    return file_hashes([path])[path] if path.is_file() else weights_hash(file_hashes(all_weight_files(path)))


def all_weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder and its sub-folders, sorted."""
    return sorted({file for pattern in WEIGHT_FILES for file in folder.rglob(pattern)})


def weights_hash(hashes: Mapping[Path, str]) -> str:
    """`part_hash` from the hashes of the sorted weight files."""
    digest = hashlib.sha256()
    for file, value in hashes.items():
        digest.update(f"{file.name}:{value}\n".encode())
    return digest.hexdigest()


def config_hash(folder: Path) -> str:
    """sha256 of what config.json says the part computes, whoever wrote it; empty where there is none to read."""
    try:
        said = json.dumps(_without_history(read_json(folder / "config.json")), sort_keys=True)
    except (OSError, ValueError, RecursionError):
        return ""
    return hashlib.sha256(said.encode()).hexdigest()


def _without_history(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_history(item) for key, item in value.items() if key not in _HISTORY}
    return [_without_history(item) for item in value] if isinstance(value, list) else value


def cache_file() -> Path:
    """Where hashes are remembered; `VLMTOOL_CACHE` moves the folder."""
    return Path(os.environ.get("VLMTOOL_CACHE", Path.home() / ".cache" / "vlmtool")) / "hashes.json"


def file_hashes(files: list[Path], anew: bool = False) -> dict[Path, str]:
    """sha256 of each file; `anew` reads every file, whatever is remembered."""
    hashes = {} if anew else remembered(files)
    read: dict[str, str] = {}
    for file in files:
        if file not in hashes:
            key = _key(file)
            hashes[file] = sha256(file)
            if _key(file) == key:  # else it was written to meanwhile, and the hash is of neither content
                read[key] = hashes[file]
    if read:
        _keep(read)
    return {file: hashes[file] for file in files}


def remembered(files: list[Path]) -> dict[Path, str]:
    """sha256 of those files whose hash is remembered; none is read."""
    cache = _read_cache()
    return {file: cache[key] for file in files if (key := _key(file)) in cache}


def remember(hashes: Mapping[Path, str]) -> None:
    """Keep the hashes of files as they lie there now."""
    _keep({_key(file): value for file, value in hashes.items()})


def _keep(hashes: dict[str, str]) -> None:
    with suppress(OSError):  # a read-only home only costs the time of hashing again
        write_json(cache_file(), _read_cache() | hashes)


def _key(file: Path) -> str:
    stat = file.stat()
    return f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"


def _read_cache() -> dict[str, str]:
    try:
        known = read_json(cache_file())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
