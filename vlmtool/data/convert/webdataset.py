"""WebDataset's shards: tar files in which the files of a sample follow one another, with one name and other endings.

Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

import json
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from vlmtool.data.convert.chat_turns import TURNS, chat_record
from vlmtool.data.convert.items import Item, Pictures, Unusable, attempt, caption_record
from vlmtool.data.formats.llava import is_inside
from vlmtool.utils.errors import DataError, shortened
from vlmtool.utils.fetch import MAX_BYTES

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TEXTS = ("json", "txt", "caption", "text")
CAPTIONS = ("caption", "text", "txt")

Member = tuple[str, str, bytes | None]  # the sample's name, the ending, the content; None of one that is too large


def records(source: Path, pictures: Pictures) -> Iterator[Item]:
    """A record for each sample: its JSON with turns or a caption, or its text; the shard is read as a stream.

    Raises:
        DataError: the shard cannot be read on, or a name in it leads elsewhere.
    """
    try:
        with tarfile.open(source, "r|*") as shard:
            for key, members in groupby(_members(shard, source), lambda member: member[0]):
                files = [(ending, content) for _, ending, content in members]
                yield from attempt(f"{source}: {key}", lambda key=key, files=files: _convert(key, files, pictures))  # type: ignore[misc]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{source}: cannot be read as tar: {error}\nWas the file downloaded to its end?") from error


def _members(shard: tarfile.TarFile, source: Path) -> Iterator[Member]:
    """The files that are read. A sample's name goes up to the first point of the file's, as in WebDataset."""
    for member in shard:
        if not is_inside(member.name):
            raise DataError(f"{source}: '{shortened(member.name)}' is absolute or leaves the archive: refused.")
        if member.isdir():
            continue
        if not member.isfile():
            raise DataError(f"{source}: '{shortened(member.name)}' is a link or a device: refused.")
        path = PurePosixPath(member.name)
        stem, _, ending = path.name.partition(".")
        if not stem or ending.rpartition(".")[2].lower() not in (*PICTURES, *TEXTS):
            continue  # __index__, .cls, .npy: nothing that a record has
        file = shard.extractfile(member) if member.size <= MAX_BYTES else None
        yield str(path.with_name(stem)), ending.lower(), file.read() if file else None


def _convert(key: str, files: list[tuple[str, bytes | None]], pictures: Pictures) -> Iterable[dict[str, Any]]:
    """The record of one sample; several pictures (0.jpg, 1.jpg) are in the order of their endings."""
    contents: dict[str, bytes] = {}
    for ending, content in sorted(files):
        if content is None:
            raise Unusable("too large", f"its .{ending} is larger than {MAX_BYTES >> 20} MiB")
        if ending in contents:
            raise Unusable("wrong form", f"it has two .{ending}")
        contents[ending] = content
    value = _json(contents.get("json"))
    texts = [contents[name].decode("utf-8", errors="replace").strip() for name in TEXTS[1:] if name in contents]
    texts += [value[name].strip() for name in CAPTIONS if isinstance(value.get(name), str)]
    has_turns = any(value.get(name) for name in TURNS)
    if not has_turns and not any(texts):
        raise Unusable("no text", "it has neither turns nor a caption")
    images = [
        pictures.add(content, key) for ending, content in contents.items() if ending.rpartition(".")[2] in PICTURES
    ]
    if not images and not has_turns:
        raise Unusable("no picture", f"none of {', '.join(PICTURES)} is in it")
    if has_turns:
        turns = {name: field for name, field in value.items() if name in (*TURNS, "system")}
        yield chat_record({"id": key, **turns}, key, pictures, images)
    else:
        yield caption_record(key, images, next(filter(None, texts)))


def _json(content: bytes | None) -> dict[str, Any]:
    if content is None:
        return {}
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unusable("no JSON", f"its .json: {error}") from error
    return value if isinstance(value, dict) else {}
