"""Download a large file: goes on where it stopped, and has its name only once it is whole and is what it should be."""

import hashlib
import http.client
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from vlmtool.utils.errors import DataError
from vlmtool.utils.fetch import ask
from vlmtool.utils.files import remove, sync, sync_folder, write_text

BLOCK = 1 << 20  # bytes
SECONDS = 24 * 3600.0  # for one connection; one on which nothing comes is left much earlier
TRIES = 5  # connections in a row that bring nothing new
SPARE = 1 << 30  # bytes of the disk that stay free
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")

Progress = Callable[[int, int | None], None]  # bytes that are there, and in all


def download(
    url: str,
    path: Path,
    size: int | None = None,
    hashes: dict[str, str] | None = None,
    allow_local: bool = False,
    progress: Progress = lambda done, total: None,
) -> None:
    """Download `url` to `path`, by way of `path.part`, which a later call goes on with.

    Args:
        size: bytes that it must have; None where nobody says.
        hashes: hex digests that it must have, by algorithm (sha256, md5).

    Raises:
        UsageError: an address that is not asked. DataError: it cannot be had whole, is something else than it should
            be, or the disk is too small.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    left = TRIES
    while True:
        before = _size(part)
        try:
            _go_on(url, part, allow_local, progress)
            break
        except _Broken as error:
            left = TRIES if _size(part) > before else left - 1
            if left == 0:
                raise DataError(f"{url}: {error}.\nRun the command again: it goes on from there.") from error
    check_file(part, url, size, hashes or {})
    sync(part)
    os.replace(part, path)
    remove(_mark(part))
    sync_folder(path.parent)


class _Broken(Exception):
    """The connection ended before the file did."""


def check_file(path: Path, name: str, size: int | None, hashes: dict[str, str]) -> None:
    """See that a file is what was published, and delete it where it is not.

    Raises:
        DataError: it is not.
    """
    found = ""
    if size is not None and path.stat().st_size != size:
        found = f"has {path.stat().st_size:,} bytes, not {size:,}"
    for algorithm, wanted in hashes.items() if not found else ():
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, algorithm).hexdigest()
        if digest != wanted:
            found = f"has the {algorithm} {digest}, not {wanted}"
    if found:
        remove(path)
        raise DataError(f"{name}: what came {found}; it was deleted.\nTry again later, or download it from its page.")


def _go_on(url: str, part: Path, allow_local: bool, progress: Progress) -> None:
    """One connection: what is missing of `part`, or all of it where the file has changed since."""
    mark = _mark(part).read_text(encoding="utf-8") if _mark(part).is_file() else ""
    start = _size(part) if mark else 0
    headers = {"Range": f"bytes={start}-", "If-Range": mark} if start else {}

    def take(response: http.client.HTTPResponse) -> None:
        if (response.getheader("Content-Type") or "").startswith("text/html"):
            raise OSError("a web page came, not a file: is there something to agree to, or to log in?")
        if response.status == 416:  # nothing is left to come, or the file has become shorter
            if response.getheader("Content-Range") == f"bytes */{start}":
                return
            remove(part)
            raise _Broken("the file has changed")
        match = _RANGE.fullmatch(response.getheader("Content-Range") or "")
        goes_on = response.status == 206 and match is not None and int(match[1]) == start
        if response.status == 206 and not goes_on:
            raise OSError("the server sends another part than was asked for")
        done = start if goes_on else 0
        total = None if response.length is None else done + response.length
        check_space(part.parent, response.length or 0)
        if not goes_on:
            write_text(_mark(part), _validator(response))
        _copy(response, part, done, total, progress)

    ask(url, take, allow_local, SECONDS, headers, (200, 206, 416))


def _copy(response: http.client.HTTPResponse, part: Path, done: int, total: int | None, progress: Progress) -> None:
    with open(part, "ab" if done else "wb") as file:
        while True:
            try:
                block = response.read(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise _Broken(f"the connection broke after {done:,} bytes ({error or type(error).__name__})") from error
            if not block:
                break
            file.write(block)
            done += len(block)
            progress(done, total)
    if total is not None and done < total:
        raise _Broken(f"it ended after {done:,} of {total:,} bytes")


def check_space(folder: Path, size: int) -> None:
    """See that so many bytes fit on the disk of `folder`.

    Raises:
        DataError: they do not.
    """
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    if size > free - SPARE:
        raise DataError(
            f"{folder}: {size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free ({SPARE / 1e9:.0f} GB stay so).\n"
            "Make room, or name a folder on another disk: --into DIR."
        )


def _validator(response: http.client.HTTPResponse) -> str:
    """What says that the file is still the same: a strong ETag, or else its date (RFC 9110, section 13.1.5)."""
    tag = response.getheader("ETag") or ""
    return tag if tag and not tag.startswith("W/") else response.getheader("Last-Modified") or ""


def _mark(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
