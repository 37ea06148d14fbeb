"""LLaVA's own records, with nothing in them that is not read; the writer checks them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlmtool.data.convert.items import Item, Pictures, Unusable, as_object, each_record
from vlmtool.data.formats.json_stream import Record
from vlmtool.data.formats.llava import record_id
from vlmtool.data.formats.record_keys import unread_keys


def records(source: Path, pictures: Pictures) -> Iterator[Item]:
    """Every record with all its turns; one that names its pictures in a field that nobody reads is left out."""

    def convert(record: Record) -> Iterable[dict[str, Any]]:
        entry = as_object(record.value)
        for complaint in unread_keys(entry):
            raise Unusable("unread field", complaint)
        value: dict[str, Any] = {"id": record_id(entry, str(record.number))}
        image = entry.get("image")
        if isinstance(image, list) and all(isinstance(path, str) for path in image) and image:
            value["image"] = [pictures.name_of(path) for path in image]
        elif image not in (None, "", []):
            value["image"] = pictures.name_of(image) if isinstance(image, str) else image
        turns = entry.get("conversations")
        yield value | {"conversations": [_plain(turn) for turn in turns] if isinstance(turns, list) else turns}

    return each_record(source, convert)


def _plain(turn: Any) -> Any:
    """A turn with nothing but who says what; of another form, as it is."""
    return {name: turn[name] for name in ("from", "value") if name in turn} if isinstance(turn, dict) else turn
