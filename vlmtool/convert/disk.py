"""What was recorded, held against what lies on disk now. Nothing is downloaded and no weights are loaded."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vlmtool.models.damage import damage_of
from vlmtool.models.fingerprint import (
    SHORT,
    Identity,
    all_weight_files,
    config_hash,
    file_hashes,
    remembered,
    weight_files,
    weights_hash,
)
from vlmtool.models.manifest import FILE_NAME, listed_files
from vlmtool.utils.hub import PACKAGE, SHIPPED, is_hub_id
from vlmtool.utils.terminal import track

SMALL = 100 * 2**20  # bytes of a file that is hashed unasked, in a fraction of a second

Status = Literal["agrees", "differs", "not found here", "not readable here", "not read", "not recorded"]


@dataclass(frozen=True)
class Check:
    """One thing that was recorded by its hash, and what is found in its place."""

    status: Status
    recorded: str = ""
    found: str = ""
    kind: str = "weights"
    """What the two hashes are of."""
    where: str = ""
    """The folder or file that was looked at."""

    def told(self) -> str:
        """`3f2a91bc04de agrees`, both hashes where they differ, or the one that there is."""
        if self.status == "differs":
            here = self.found[:SHORT] or "nothing"
            return f"differs in {self.kind}: recorded {self.recorded[:SHORT]}, here {here}"
        if self.status == "not recorded":
            return self.found[:SHORT] or "not read (large; --verify reads it)"
        hint = " (large; --verify reads it)" if self.status == "not read" else ""
        return f"{(self.recorded or self.found)[:SHORT]} {self.status}{hint}".strip()


@dataclass(frozen=True)
class Files:
    """The files of a folder against those of its manifest; names are relative."""

    num_agreeing: int = 0
    differing: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name: hash recorded, hash found."""
    missing: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    unrecorded: list[str] = field(default_factory=list)


def find_here(name: str, *beside: Path) -> Path | None:
    """A file, a folder, or a hub id's folder in the local cache; None where it is not on this machine.

    Args:
        name: as it was recorded.
        beside: folders from which a relative name may be meant, after the current one.
    """
    if name.startswith(SHIPPED):
        places = [PACKAGE / name.removeprefix(SHIPPED)]
    else:
        places = [Path(os.path.expanduser(name)), *(folder / name for folder in beside)]
    # os.path's answers are no where pathlib's raise: a name that is too long, a folder of another user.
    found = next((place for place in places if os.path.exists(place)), None)
    return found or (_in_cache(name) if is_hub_id(name) else None)


def _in_cache(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download  # half a second, needed for hub ids only

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (OSError, ValueError):
        return None


def hashes_here(files: list[Path], verify: bool) -> dict[Path, str]:
    """sha256 of those files that are remembered or small; of all, read anew, to verify."""
    if verify:
        return {file: file_hashes([file], anew=True)[file] for file in track(files, len(files), "Reading")}
    known = remembered(files)
    return known | file_hashes([file for file in files if file not in known and file.stat().st_size <= SMALL])


def part_here(folder: Path, verify: bool) -> Identity:
    """A part as it lies in `folder`; without a hash of weights that are large and not remembered."""
    files = weight_files(folder)
    hashes = hashes_here(files, verify)
    is_known = bool(files) and len(hashes) == len(files)
    return Identity(weights_hash({file: hashes[file] for file in files}) if is_known else "", config_hash(folder))


def check_part(name: str, recorded: Identity, beside: list[Path], verify: bool) -> Check:
    """A base against what lies where it was recorded."""
    folder = find_here(name, *beside)
    if folder is None or not weight_files(folder):
        return Check("not found here", recorded.weights)
    try:
        found = part_here(folder, verify)
    except OSError:
        return Check("not readable here", recorded.weights, where=str(folder))
    if not recorded.weights:
        return Check("not recorded", "", found.weights, where=str(folder))
    if difference := recorded.difference(found):
        kind = difference[0]
        hashes = (recorded.weights, found.weights) if kind == "weights" else (recorded.config, found.config)
        return Check("differs", *hashes, kind, str(folder))
    return Check("agrees" if found.weights else "not read", recorded.weights, found.weights, where=str(folder))


def check_file(name: str, recorded: str, beside: list[Path], verify: bool) -> Check:
    """A data file, a checkpoint or a model folder against what lies where it was recorded."""
    path = find_here(name, *beside)
    if path is not None and path.is_dir() and not (path / FILE_NAME).is_file():
        return _check_foreign(path, recorded, verify)
    file = path / FILE_NAME if path is not None and path.is_dir() else path
    if file is None or not os.path.isfile(file):
        return Check("not found here", recorded, kind="contents")
    try:
        found = hashes_here([file], verify).get(file, "")
    except OSError:
        return Check("not readable here", recorded, kind="contents", where=str(path))
    if not recorded:
        return Check("not recorded", "", found, "contents", str(path))
    status: Status = "not read" if not found else "agrees" if found == recorded else "differs"
    return Check(status, recorded, found, "contents", str(path))


def _check_foreign(folder: Path, recorded: str, verify: bool) -> Check:
    """A folder of another tool's, by all weights in it."""
    files = all_weight_files(folder)
    hashes = hashes_here(files, verify)
    if not files:
        return Check("not found here", recorded, where=str(folder))
    if len(hashes) < len(files):
        return Check("not read", recorded, where=str(folder))
    found = weights_hash({file: hashes[file] for file in files})
    return Check("agrees" if found == recorded else "differs", recorded, found, where=str(folder))


def check_files(folder: Path, recorded: Mapping[str, str], verify: bool) -> Files:
    """Every file of a folder against its manifest; a manifest without hashes leaves all unrecorded."""
    present = {file.relative_to(folder).as_posix(): file for file in listed_files(folder)}
    hashes = hashes_here([present[name] for name in recorded if name in present], verify)
    found = {name: hashes[file] for name, file in present.items() if file in hashes}
    return Files(
        num_agreeing=sum(found.get(name) == value for name, value in recorded.items()),
        differing={name: (v, found[name]) for name, v in recorded.items() if name in found and found[name] != v},
        missing=sorted(set(recorded) - set(present)),
        unread=sorted(name for name in recorded if name in present and name not in found),
        unrecorded=sorted(set(present) - set(recorded)),
    )


def damaged_files(files: list[Path], verify: bool) -> dict[Path, str]:
    """Files that cannot be read, and why; to verify, torch's archives are read whole."""
    reasons = {file: damage_of(file, verify) for file in files}
    return {file: reason for file, reason in reasons.items() if reason is not None}


def check_held(path: Path, inside: str, files: Files, recorded: Mapping[str, str], verify: bool) -> Check:
    """The folder itself (`inside` is empty) or a sub-folder of it ("llm/") against the hashes of its files."""
    folder = path / inside
    if not folder.is_dir():
        return Check("not found here")
    here = part_here(folder, verify).weights
    ours = {name: value for name, value in recorded.items() if name.startswith(inside)}
    for name, value in ours.items():
        if name in files.differing or name in files.missing:
            _, found = files.differing.get(name, ("", ""))
            return Check("differs", value, found, name.removeprefix(inside))
    if not ours:
        return Check("not recorded", "", here)
    return Check("agrees" if here else "not read", here, here)
