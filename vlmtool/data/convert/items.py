"""What a source gives, one after the other: a record in LLaVA's form, or why there is none."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vlmtool.data.formats.json_stream import Record, read_records
from vlmtool.data.tokenizer import IMAGE_TAG
from vlmtool.utils.errors import message_lines, shortened

Turn = tuple[str, str]  # who speaks, as LLaVA names them, and what
HUMAN, GPT = "human", "gpt"


@dataclass(frozen=True)
class Converted:
    """A record in LLaVA's form, and the place in the source that it comes from."""

    origin: str
    value: dict[str, Any]


@dataclass(frozen=True)
class Skipped:
    """A record that is left out: its place, the kind of reason that is counted, and what exactly is wrong."""

    origin: str
    reason: str
    detail: str


Item = Converted | Skipped


class Unusable(Exception):
    """This record cannot be converted; the others can.

    Args:
        reason: the kind, such as "no picture".
        detail: one sentence.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Pictures(Protocol):
    """Where pictures are, and where those that a source brings along go; see `picture_folder.PictureFolder`."""

    def name_of(self, path: str) -> str:
        """The name in a record for a picture that a source names."""

    def add(self, content: bytes, key: str = "") -> str:
        """The name in a record for a picture that a source holds."""


def llava_record(name: object, images: Sequence[str], turns: Iterable[Turn]) -> dict[str, Any]:
    """{id, image, conversations}: no `image` for none, a path for one, a list for several."""
    named = {"image": images[0] if len(images) == 1 else list(images)} if images else {}
    return {"id": str(name), **named, "conversations": [{"from": who, "value": text} for who, text in turns]}


def caption_record(name: object, images: Sequence[str], caption: str) -> dict[str, Any]:
    """Pictures and the text that belongs to them, as LLaVA's pretraining has them: nothing is asked."""
    return llava_record(name, images, [(HUMAN, "\n".join([IMAGE_TAG] * len(images))), (GPT, caption)])


def each_record(source: Path, convert: Callable[[Record], Iterable[dict[str, Any]]]) -> Iterator[Item]:
    """What `convert` makes of each record of a JSON array or of JSON Lines.

    Raises:
        DataError: the file cannot be read on.
    """
    for record in read_records(source):
        if record.error is not None:
            yield Skipped(record.origin, "no JSON", message_lines(record.error)[0])
        else:
            yield from attempt(record.origin, lambda record=record: convert(record))  # type: ignore[misc]


def attempt(origin: str, convert: Callable[[], Iterable[dict[str, Any]]]) -> Iterator[Item]:
    """The records of one place, all of them or none."""
    try:
        values = list(convert())
    except Unusable as error:
        yield Skipped(origin, error.reason, error.detail)
    else:
        yield from (Converted(origin, value) for value in values)


def as_object(value: Any) -> dict[str, Any]:
    """A record that is an object.

    Raises:
        Unusable: it is something else.
    """
    if not isinstance(value, dict):
        raise Unusable("wrong form", f"a record is an object, not {type(value).__name__}")
    return value


def text_field(record: dict[str, Any], name: str) -> str:
    """A text that must be there.

    Raises:
        Unusable: it is missing, empty or no text.
    """
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Unusable("wrong form", f"'{name}' is no text but {shortened(repr(value), 60)}")
    return value
