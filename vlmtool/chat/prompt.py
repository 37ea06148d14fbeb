"""A question as the model reads it: token ids, images, and what stands at each position."""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vlmtool.chat.decoder import ImagePosition
from vlmtool.data.conversation import Image, Message
from vlmtool.data.render import Renderer


@dataclass(frozen=True)
class Request:
    """A conversation that waits for the assistant's answer. An image's source is a path or a picture in memory."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Prompt:
    """A request rendered: ids with images expanded, and the images with the position where each begins."""

    input_ids: list[int]
    images: list[Image]
    image_starts: list[int]
    keys: list[Hashable]
    """What stands at each position: a token id, or an `ImagePosition`."""

    @property
    def image_keys(self) -> list[Hashable]:
        """Of each image, equal only for the same one."""
        return [cast(ImagePosition, self.keys[start]).image for start in self.image_starts]

    def part(self, start: int, stop: int | None = None) -> "Prompt":
        """From one position to another, neither inside an image."""
        stop = len(self.input_ids) if stop is None else stop
        inside = [number for number, at in enumerate(self.image_starts) if start <= at < stop]
        return Prompt(
            self.input_ids[start:stop],
            [self.images[number] for number in inside],
            [self.image_starts[number] - start for number in inside],
            self.keys[start:stop],
        )


class SameObject:
    """Makes an object comparable by identity, and keeps it alive so that no other gets its address."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SameObject) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def image_key(image: Image, folder: Path = Path(".")) -> Hashable:
    """Equal for two images only if they are the same file, unchanged, or the same picture in memory."""
    if not isinstance(image.source, str):
        return SameObject(image.source)
    path = folder / image.source
    if not path.is_file():  # opening it will say so
        return str(path)
    stat = path.stat()
    return (str(path.resolve()), stat.st_size, stat.st_mtime_ns)


def read_prompt(
    renderer: Renderer, request: Request, folder: Path = Path("."), known: dict[Hashable, Hashable] | None = None
) -> Prompt:
    """Render a request; no image is opened.

    Args:
        folder: where relative image paths are looked up.
        known: image keys of other prompts: equal ones become the same object, which is compared faster.
    """
    known = {} if known is None else known
    input_ids = renderer.prompt(request.messages)
    images = [image for message in request.messages for image in message.images]
    keys: list[Hashable] = list(input_ids)
    starts: list[int] = []
    position = 0
    for image in images:
        position = input_ids.index(renderer.image_token_id, position)
        starts.append(position)
        key = image_key(image, folder)
        key = known.setdefault(key, key)
        for number in range(renderer.num_image_tokens(image)):
            keys[position] = ImagePosition(key, number)
            position += 1
    return Prompt(input_ids, images, starts, keys)
