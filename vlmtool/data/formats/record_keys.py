"""Keys of a record that nobody reads, although whoever wrote them meant its pictures or its turns."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from vlmtool.utils.errors import shortened

KNOWN = {"id", "image", "conversations"}
# Names that other tools give to pictures. Others that look like it (image_id, image_size, image_url) are descriptions.
_PICTURES = {
    "images", "img", "imgs", "image_path", "image_paths", "image_file", "image_files", "picture", "pictures",
}  # fmt: skip
_DESCRIPTIONS = {"imageid"}  # too near to `image`; the others are far enough
_VIDEOS = {"video", "videos", "video_path"}
_SIMILAR = 0.8  # one letter more, less or changed in `image`, or two letters in another order


def unread_keys(record: Mapping[str, Any]) -> Iterator[str]:
    """Half a sentence for each key that means pictures, videos or the id, and is not read."""
    for key, value in record.items():
        if key in KNOWN or (meant := _meant(key)) is None or value in (None, "", []) or value == record.get("image"):
            continue
        if meant == "id" and meant not in record:
            yield f"'{key}' is not read; did you mean 'id'?"
        elif meant == "image" and isinstance(value, str | list | dict):  # a number is how many there are
            yield f"'{shortened(key)}' is not read; did you mean 'image'?"
        elif meant == "video":
            yield f"'{key}' is not read: vlmtool learns from pictures, not from videos"


@lru_cache(maxsize=4096)
def _meant(key: str) -> str | None:
    """The field that was meant by a key; None for a key that may stand beside them."""
    name = key.strip().lower()
    if name in _VIDEOS:
        return "video"
    if name in _PICTURES:
        return "image"
    if name in KNOWN:
        return name
    nearest = get_close_matches(name, ("image", "conversations"), 1, _SIMILAR) if name not in _DESCRIPTIONS else []
    return nearest[0] if nearest else None


def meant_conversations(record: Mapping[str, Any]) -> str:
    """The rest of the error for a record without turns: what may have been meant, with a space before it."""
    for key, value in record.items():
        if key in KNOWN:
            continue
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, dict) and "conversations" in first:
            return f" Records stand in its list '{shortened(key)}': give that list alone, as the whole file."
        if _meant(key) == "conversations" and isinstance(value, list):
            return f" Did you mean 'conversations' by '{shortened(key)}'?"
    return ""
