"""Which format a source has, told from its content."""

import json
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vlmtool.data.convert.chat_turns import TURNS
from vlmtool.data.convert.refcoco import WORDS
from vlmtool.data.formats.json_stream import read_records
from vlmtool.utils.errors import UsageError

LOOKED_AT = 200  # records; a data set may begin with text alone
_HEAD = 4096  # bytes
_TAR = (257, b"ustar")  # where a tar's mark stands
_COCO = re.compile(rb'\s*\{\s*"(?:info|licenses|type)"\s*:|\s*\{\s*"(?:images|annotations)"\s*:\s*\[\s*\{')


def detect(source: Path) -> str:
    """The name of the only format that the source can have.

    Raises:
        UsageError: several could be meant, or none; the message names them. DataError: it cannot be read.
    """
    with open(source, "rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[_TAR[0] :].startswith(_TAR[1]) or source.name.endswith((".tar.gz", ".tgz")):
        return "webdataset"
    if head[:1] == b"\x80" or source.suffix in (".p", ".pkl"):
        return "refcoco"  # whose pickle is refused with a way out
    if _COCO.match(head.removeprefix(b"\xef\xbb\xbf")) and not _is_line(head):
        return "coco-captions"
    if b"\0" in head:
        raise UsageError(
            f"{source}: neither text nor parquet nor tar: its format is not known.\n"
            "Give the file that holds the records; `vlmtool data convert --help` lists the formats."
        )
    values = [record.value for record in islice(read_records(source), LOOKED_AT) if isinstance(record.value, dict)]
    candidates = _candidates(values)
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise UsageError(
            f"{source}: its format is not known: {_described(values)}.\nName it: vlmtool data convert FORMAT …"
        )
    raise UsageError(
        f"{source}: could be {' or '.join(candidates)}: its first records have no picture.\n"
        f"Name one: vlmtool data convert {candidates[0]} …"
    )


def _is_line(head: bytes) -> bool:
    """The first line is a record by itself, with turns."""
    try:
        value = json.loads(head.decode("utf-8-sig").partition("\n")[0])
    except ValueError:
        return False
    return isinstance(value, dict) and any(name in value for name in TURNS)


def _candidates(values: list[dict[str, Any]]) -> list[str]:
    """What the fields of the first records allow."""
    if not values:
        return []
    keys = set().union(*values)
    if {"image_id", "caption"} <= keys:
        return ["ai-challenger"]
    if "bbox" in keys and keys & set(WORDS):
        return ["refcoco"]
    if any(_is_typed(turn) for value in values for name in TURNS for turn in value.get(name) or []):
        return ["openai"]
    if "messages" in keys:
        return ["sharegpt"] if "images" in keys else ["sharegpt", "openai"]
    if "conversations" in keys:
        return ["llava"] if "image" in keys else ["sharegpt"] if "images" in keys else ["llava", "sharegpt"]
    return []


def _is_typed(turn: Any) -> bool:
    return isinstance(turn, Mapping) and isinstance(turn.get("content"), list)


def _described(values: list[dict[str, Any]]) -> str:
    return "its records have " + ", ".join(sorted(set().union(*values))[:8]) if values else "no record is an object"
