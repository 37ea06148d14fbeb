"""The one internal form of a sample: messages whose content is text and media in reading order."""

from dataclasses import dataclass
from typing import Literal

from PIL import Image as PILImage

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Image:
    """A picture in a message: a path (relative to the image folder in records) or pixels already in memory."""

    source: str | PILImage.Image


Content = tuple[str | Image, ...]


@dataclass(frozen=True)
class Message:
    """One turn. `content` holds text and media as they are read; only users' messages hold media."""

    role: Role
    content: Content

    @property
    def images(self) -> list[Image]:
        """The pictures of this message, in reading order."""
        return [part for part in self.content if isinstance(part, Image)]


@dataclass(frozen=True)
class Conversation:
    """A sample: its messages, the id its file gives it and where it stands (`file:line`) for error messages."""

    id: str
    messages: tuple[Message, ...]
    origin: str = ""

    @property
    def images(self) -> list[Image]:
        """Every picture of the sample, in reading order."""
        return [image for message in self.messages for image in message.images]


def user(*content: str | Image) -> Message:
    """A user's message: `user(Image("a.jpg"), "\\nWhat is this?")`."""
    return Message("user", content)


def assistant(text: str) -> Message:
    """An assistant's message; a tag such as `<image>` in it is text."""
    return Message("assistant", (text,))
