"""Turns as chat tools write them: {from, value} or {role, content}, content a text or a list of typed parts.

Sources: https://github.com/hiyouga/LLaMA-Factory, data/README.md; https://github.com/modelscope/ms-swift,
docs/source_en/Customization/Custom-dataset.md; https://platform.openai.com/docs/api-reference/chat.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmtool.data.convert.items import GPT, HUMAN, Pictures, Turn, Unusable, llava_record
from vlmtool.data.formats.llava import record_id
from vlmtool.data.tokenizer import IMAGE_TAG
from vlmtool.utils.errors import shortened

SPEAKERS = {
    "human": HUMAN, "user": HUMAN, "gpt": GPT, "assistant": GPT, "chatgpt": GPT, "bot": GPT, "model": GPT,
    "system": "system", "developer": "system",
}  # fmt: skip
TURNS = ("conversations", "messages")
_TEXTS = ("text", "input_text", "output_text")
_IMAGES = ("image", "image_url", "input_image")
_OTHER_MEDIA = ("videos", "video", "audios", "audio")


def chat_record(
    record: Mapping[str, Any], default_id: str, pictures: Pictures, images: Sequence[str] | None = None
) -> dict[str, Any]:
    """A record whose turns stand in `conversations` or `messages`, and its pictures in `images` or in typed content.

    Where pictures are listed and no turn has a tag for any of them, they come before the first question.

    Args:
        images: the names of the listed pictures, where they are known already.

    Raises:
        Unusable: a field of another form, another role, or other media than pictures.
    """
    for name in _OTHER_MEDIA:
        if record.get(name):
            raise Unusable("other media", f"'{name}' is not learned from")
    listed = listed_images(record, pictures) if images is None else list(images)
    turns, typed = read_turns(record, listed, pictures)
    if typed and listed and set(typed) != set(listed):
        raise Unusable("wrong tags", f"{len(listed)} pictures are listed, and {len(typed)} others stand in the turns")
    if not typed and listed and not any(IMAGE_TAG in text for who, text in turns if who == HUMAN):
        turns = _with_tags(turns, len(listed))
    return llava_record(record_id(record, default_id), typed or listed, turns)


def listed_images(record: Mapping[str, Any], pictures: Pictures) -> list[str]:
    """The names of the pictures in `images` or `image`: paths, or {path, bytes}."""
    found = [record[name] for name in ("images", "image") if record.get(name) not in (None, "", [])]
    if len(found) > 1 and found[0] != found[1]:
        raise Unusable("wrong form", "it has both 'images' and 'image'")
    values = found[0] if found and isinstance(found[0], list) else found
    return [image_name(value, pictures) for value in values]


def image_name(value: Any, pictures: Pictures, key: str = "") -> str:
    """The name of a picture given as a path, an address, its bytes, or as {path, bytes} or {url}.

    Raises:
        Unusable: it is none of these.
    """
    if isinstance(value, bytes):
        return pictures.add(value, key)
    if isinstance(value, str):
        return pictures.name_of(value)
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), bytes):
            return pictures.add(value["bytes"], key)
        place = value.get("path") or value.get("url")
        if isinstance(place, str):
            return pictures.name_of(place)
    raise Unusable("no picture", f"an image is a path or an address, not {shortened(repr(value), 60)}")


def read_turns(record: Mapping[str, Any], listed: Sequence[str], pictures: Pictures) -> tuple[list[Turn], list[str]]:
    """The turns in LLaVA's form, and the pictures that stand in typed content, in reading order."""
    name = next((name for name in TURNS if isinstance(record.get(name), list | tuple) and len(record[name])), None)
    if name is None:
        raise Unusable("wrong form", f"it has no list {' or '.join(TURNS)} with a turn in it")
    typed: list[str] = []
    turns: list[Turn] = []
    system = record.get("system")
    if isinstance(system, str) and system:
        turns.append(("system", system))
    for turn in record[name]:
        if not isinstance(turn, Mapping):
            raise Unusable("wrong form", f"a turn is an object, not {shortened(repr(turn), 60)}")
        role = turn.get("role") or turn.get("from")
        speaker = SPEAKERS.get(role) if isinstance(role, str) else None
        if speaker is None:
            raise Unusable("other role", f"a turn is from a user, an assistant or the system, not {role!r}")
        content = next((turn[name] for name in ("content", "value") if turn.get(name) is not None), None)
        if isinstance(content, list | tuple):
            content = _joined(content, listed, typed, pictures)
        if not isinstance(content, str):
            raise Unusable("wrong form", f"what a turn says is a text, not {shortened(repr(content), 60)}")
        turns.append((speaker, content))
    return turns, typed


def _joined(parts: Sequence[Any], listed: Sequence[str], typed: list[str], pictures: Pictures) -> str:
    """Typed parts as one text with tags, each on a line of its own; pictures are added to `typed`."""
    text = ""
    after_tag = False
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in _TEXTS and isinstance(part.get("text"), str):
            piece = part["text"]
            text += "\n" + piece if after_tag and not piece.startswith("\n") else piece
            after_tag = False
        elif kind in _IMAGES:
            typed.append(_part_image(part, listed, len(typed), pictures))
            text += ("" if not text or text.endswith("\n") else "\n") + IMAGE_TAG
            after_tag = True
        else:
            raise Unusable("other media", f"a part of a turn is a text or an image, not {shortened(repr(part), 60)}")
    return text


def _part_image(part: Mapping[str, Any], listed: Sequence[str], place: int, pictures: Pictures) -> str:
    """The picture of a typed part: the one it names, or of those listed the one of its index, or else the next."""
    given = next((part[name] for name in ("image_url", "image", "url", "path") if part.get(name)), None)
    if given is not None:
        return image_name(given, pictures)
    index = part.get("index")
    place = index if isinstance(index, int) else place
    if not 0 <= place < len(listed):
        raise Unusable("no picture", f"a part is picture {place + 1}, and {len(listed)} are listed")
    return listed[place]


def _with_tags(turns: Sequence[Turn], number: int) -> list[Turn]:
    """A tag for each picture before the first question."""
    first = next((place for place, (who, _) in enumerate(turns) if who == HUMAN), None)
    if first is None:
        raise Unusable("wrong tags", "it has pictures, and nobody asks about them")
    tags = f"{IMAGE_TAG}\n" * number
    return [(who, tags + text if place == first else text) for place, (who, text) in enumerate(turns)]
