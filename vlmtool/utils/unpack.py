"""Unpack a zip or tar archive that may come from anywhere: all of it is looked at before the first file is written."""

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from vlmtool.utils.download import check_space
from vlmtool.utils.errors import DataError, shortened

MAX_FILES = 2_000_000
MAX_BYTES = 500 * 10**9  # unpacked
_IGNORED = "__MACOSX"  # a folder that macOS adds


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    size: int
    """Bytes, as the index tells."""
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, only: str = "*", max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> int:
    """Write the archive's files below `folder`; a single top folder of its name is left out. How many there are.

    A file that is there already in its full size stays as it is, so an unpacking that was broken off is quickly done.

    Args:
        only: pattern of the names that are wanted.

    Raises:
        DataError: the archive is broken, too large, or has a name or a link that leads elsewhere; nothing is written.
    """
    with _opened(archive) as members:
        wanted = [member for member in members if fnmatch(member.name, only)]
        total = sum(member.size for member in wanted)
        if len(members) > max_files or total > max_bytes:
            raise DataError(
                f"{archive}: {len(members):,} files, {total / 1e9:.1f} GB unpacked; the limit is "
                f"{max_files:,} files and {max_bytes / 1e9:.0f} GB.\nUnpack it yourself if that is right."
            )
        if not wanted:
            raise DataError(f"{archive}: holds no file '{only}'.\nDelete it and fetch it again.")
        check_space(folder, total)
        top = _top(wanted, folder.name)
        for member in wanted:
            _write(archive, member, folder / member.name.removeprefix(top))
    return len(wanted)


def _write(archive: Path, member: Member, path: Path) -> None:
    if path.is_file() and path.stat().st_size == member.size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    source = member.open()
    if source is None:
        raise DataError(f"{archive}: '{shortened(member.name)}' cannot be read.\nDelete it and fetch it again.")
    with source, open(temporary, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    if temporary.stat().st_size != member.size:
        raise DataError(f"{archive}: '{shortened(member.name)}' is cut.\nDelete the archive and fetch it again.")
    os.replace(temporary, path)


def _top(members: list[Member], name: str) -> str:
    """`name/` where every file is below a folder of that name."""
    return f"{name}/" if all(member.name.startswith(f"{name}/") for member in members) else ""


@contextmanager
def _opened(archive: Path) -> Iterator[list[Member]]:
    """The files of a zip or tar, every one of them checked."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                yield list(_zip_members(packed, archive))
        else:
            with tarfile.open(archive) as tar:
                yield list(_tar_members(tar, archive))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive}: cannot be unpacked: {error}.\nDelete it and fetch it again.") from error


def _zip_members(packed: zipfile.ZipFile, archive: Path) -> Iterator[Member]:
    for info in packed.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(archive, info.filename, "is a link or a device")
        if info.flag_bits & 1:
            raise _refused(archive, info.filename, "is encrypted")
        if _is_wanted(archive, info.orig_filename) and not info.is_dir():
            yield Member(_plain(info.orig_filename), info.file_size, lambda info=info: packed.open(info))  # type: ignore[misc]


def _tar_members(tar: tarfile.TarFile, archive: Path) -> Iterator[Member]:
    for member in tar:
        if not member.isfile() and not member.isdir():
            raise _refused(archive, member.name, "is a link or a device")
        if _is_wanted(archive, member.name) and member.isfile():
            yield Member(_plain(member.name), member.size, lambda member=member: tar.extractfile(member))  # type: ignore[misc]


def _is_wanted(archive: Path, name: str) -> bool:
    """A name inside the folder, and none of a packer's own files."""
    if name.startswith("/") or "\\" in name or "\0" in name or ":" in name[:2] or ".." in name.split("/"):
        raise _refused(archive, name, "is absolute or leaves the folder")
    return _IGNORED not in PurePosixPath(name).parts


def _plain(name: str) -> str:
    return PurePosixPath(name).as_posix()


def _refused(archive: Path, name: str, why: str) -> DataError:
    return DataError(f"{archive}: '{shortened(name)}' {why}: refused, nothing was unpacked.\nDo not use this file.")
