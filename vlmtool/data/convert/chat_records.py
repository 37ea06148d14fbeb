"""ShareGPT's conversations and OpenAI's messages, as ms-swift, LLaMA-Factory and many data sets have them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlmtool.data.convert.chat_turns import chat_record
from vlmtool.data.convert.items import Item, Pictures, as_object, each_record
from vlmtool.data.formats.json_stream import Record


def records(source: Path, pictures: Pictures) -> Iterator[Item]:
    """A record for each conversation, with its own id or its number in the file."""

    def convert(record: Record) -> Iterable[dict[str, Any]]:
        yield chat_record(as_object(record.value), str(record.number), pictures)

    return each_record(source, convert)
