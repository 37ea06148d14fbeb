"""LLaVA records: {id, image, conversations: [{from, value}]}, in a JSON array or JSON Lines.

Source: https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from vlmtool.data.conversation import Content, Conversation, Image, Message, Role
from vlmtool.data.formats.file_head import no_records
from vlmtool.data.formats.json_stream import read_records
from vlmtool.data.formats.record_keys import meant_conversations
from vlmtool.data.tokenizer import IMAGE_TAG
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import DataError, shortened

ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant", "system": "system"}

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell it, no tokenizer can read it
Defect = Literal["form", "tags", "outside"]


class RecordError(DataError):
    """A record that cannot be used.

    Args:
        kind: a field of the wrong form, tags that do not match the images, or an image outside the image folder.
    """

    def __init__(self, message: str, kind: Defect = "form") -> None:
        super().__init__(message)
        self.kind = kind


def read_conversations(
    path: str | Path,
    image_position: str = "as_written",
    broken: Callable[[str, str, DataError], None] | None = None,
) -> Iterator[Conversation]:
    """Conversations of a file, read and checked one by one.

    Args:
        image_position: "front" moves the tags to the front of their turn.
        broken: gets the place, the id and the error of each record that cannot be used, which is then left out;
            without it the first such record raises.

    Raises:
        UsageError: there is no such file. DataError: a record is not as it should be, the file cannot be read on, or
            holds none.
    """
    record = None
    for record in read_records(Path(path)):
        default_id = str(record.number)
        try:
            if record.error is not None:
                raise record.error
            conversation = parse_record(record.value, record.origin, default_id, image_position)
        except DataError as error:
            if broken is None:
                raise
            broken(record.origin, record_id(record.value, default_id), error)
        else:
            yield conversation
    if record is None:
        raise no_records(Path(path))


def parse_record(record: Any, origin: str, default_id: str, image_position: str = "as_written") -> Conversation:
    """One record as a conversation.

    Raises:
        RecordError: a field is missing or of the wrong kind; tags and images do not match; a path leaves the folder.
    """
    if not isinstance(record, dict):
        raise RecordError(f"{origin}: a record is an object {{id, image, conversations}}, not {type(record).__name__}.")
    sample_id = record_id(record, default_id)
    where = f"{origin}: sample '{shortened(sample_id)}'"
    images = _image_paths(record.get("image"), where)
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise RecordError(
            f"{where}: 'conversations' must be a list of {{from, value}} with at least one turn."
            f"{meant_conversations(record)}"
        )
    left = list(images)
    messages = [_message(turn, left, where, image_position) for turn in turns]
    without_image = sum(message.content.count(IMAGE_TAG) for message in messages if message.role == "user")
    tags = len(images) - len(left) + without_image
    if tags != len(images):
        raise RecordError(
            f"{where} has {counted(tags, f'{IMAGE_TAG} tag')} but {counted(len(images), 'image')}.\n"
            "Add the image or drop the tag; `vlmtool data check` lists every such sample.",
            "tags",
        )
    return Conversation(sample_id, tuple(messages), origin)


def record_id(record: Any, default_id: str) -> str:
    """The id that a record gives itself, a text or a number; else `default_id`."""
    value = record.get("id") if isinstance(record, dict) else None
    return str(value) if isinstance(value, str | int | float) else default_id


def image_paths(record: Any) -> list[str]:
    """The image paths that a record gives, wherever they lead; none where it has no such field or a wrong one."""
    value = record.get("image") if isinstance(record, dict) else None
    return [path for path in _as_list(value) if isinstance(path, str)]


def is_inside(path: str) -> bool:
    """A relative path that does not leave its folder."""
    return not path.startswith("/") and ".." not in path.split("/")


def _as_list(value: Any) -> list[Any]:
    """An absent, null or empty field is no image."""
    return [] if value in (None, "", []) else value if isinstance(value, list) else [value]


def _image_paths(value: Any, where: str) -> list[str]:
    """Checked image paths of a record."""
    paths = _as_list(value)
    for path in paths:
        if not isinstance(path, str):
            raise RecordError(f"{where}: 'image' must be a path or a list of paths, not {shortened(repr(path))}.")
        if "://" in path:
            raise RecordError(
                f"{where}: image '{shortened(path)}' is an address; those in records are not fetched.\n"
                "Download the pictures and name their files.",
                "outside",
            )
        if not is_inside(path):
            raise RecordError(
                f"{where}: image path '{shortened(path)}' is absolute or leaves the image folder.\n"
                "Paths are relative to data.image_folder.",
                "outside",
            )
    return paths


def _message(turn: Any, images: list[str], where: str, image_position: str) -> Message:
    """One turn; takes the images for its tags from the front of `images`."""
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise RecordError(f"{where}: a turn is {{from, value}} with text as value, not {shortened(str(turn))}.")
    speaker = turn.get("from")
    role = ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise RecordError(f"{where}: a turn is from 'human', 'gpt' or 'system', not {shortened(repr(speaker))}.")
    text = turn["value"]
    if not text.isascii() and _LONE_SURROGATE.search(text):
        raise RecordError(f"{where}: a turn holds half a character (a lone surrogate such as \\ud800).")
    if role != "user":
        return Message(role, (text,))
    if image_position == "front" and IMAGE_TAG in text:
        text = f"{IMAGE_TAG}\n" * text.count(IMAGE_TAG) + text.replace(IMAGE_TAG, "").strip()
        text = text.strip()  # a turn of nothing but its tag has no line end after it
    return Message(role, split_content(text, images))


def split_content(text: str, images: list[str]) -> Content:
    """Text and images in reading order; each tag takes the first of `images`, and stays text when none is left."""
    parts: list[str | Image] = []
    for number, piece in enumerate(text.split(IMAGE_TAG)):
        if number:
            parts.append(Image(images.pop(0)) if images else IMAGE_TAG)
        if piece:
            parts.append(piece)
    return tuple(parts)
