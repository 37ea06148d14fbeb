"""Requests that are answered together: which pictures they show, and which of their beginnings are the same."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from vlmtool.chat.decoder import ImagePosition
from vlmtool.chat.prompt import Prompt
from vlmtool.data.conversation import Image
from vlmtool.data.image_transform import ImageTransform
from vlmtool.utils.pixels import Pixels

WORTH_SHARING = 0.5  # of the shorter prompt: less is not worth an own pass of the model


@dataclass(frozen=True)
class Family:
    """Neighbours in a batch whose prompts begin alike: rows from `first` on, and tokens that they share."""

    first: int
    size: int
    shared: int


@dataclass(frozen=True)
class Batch:
    """Prompts, and the different pictures in them, each once.

    Attributes:
        pixels: of the pictures, or None without any.
        number_of: which of them a picture is.
    """

    prompts: list[Prompt]
    families: list[Family]
    pixels: Pixels | None
    number_of: Mapping[Hashable, int]


def read_batch(prompts: Sequence[Prompt], transform: ImageTransform | None) -> Batch:
    """Open and preprocess the pictures of prompts.

    Raises:
        DataError: one is missing or broken.
    """
    pictures: dict[Hashable, Image] = {}
    for prompt in prompts:
        for key, image in zip(prompt.image_keys, prompt.images, strict=True):
            pictures.setdefault(key, image)
    pixels = transform(list(pictures.values())) if pictures and transform is not None else None
    numbers = {key: number for number, key in enumerate(pictures)}
    return Batch(list(prompts), find_families(prompts), pixels, numbers)


def find_families(prompts: Sequence[Prompt]) -> list[Family]:
    """Neighbours that share at least half of the shorter prompt; one prompt alone is a family, too."""
    found: list[Family] = []
    for row, prompt in enumerate(prompts):
        if found:
            last = found[-1]
            shared = _common_length(prompts[last.first].keys[: last.shared], prompt.keys[:-1])
            shared = _outside_image(prompt.keys, shared)
            if shared >= WORTH_SHARING * min(len(prompts[row - 1].keys), len(prompt.keys)):
                found[-1] = Family(last.first, last.size + 1, shared)
                continue
        found.append(Family(row, 1, len(prompt.keys) - 1))
    longest_rest = max(
        (len(prompt.keys) - family.shared for family in found if family.size > 1
         for prompt in prompts[family.first : family.first + family.size]),
        default=0,
    )  # fmt: skip
    return [family if family.size > 1 else _cut_alike(family, prompts[family.first], longest_rest) for family in found]


def _cut_alike(family: Family, prompt: Prompt, longest_rest: int) -> Family:
    """A prompt alone is cut where the others are, so that neither of the two passes is padded for its sake."""
    shared = max(1, len(prompt.keys) - longest_rest)
    while shared < len(prompt.keys) and _is_inside_image(prompt.keys, shared):
        shared += 1
    return Family(family.first, 1, min(shared, len(prompt.keys) - 1))


def _common_length(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _outside_image(keys: Sequence[Hashable], length: int) -> int:
    while length > 0 and _is_inside_image(keys, length):
        length -= 1
    return length


def _is_inside_image(keys: Sequence[Hashable], place: int) -> bool:
    key = keys[place]
    return isinstance(key, ImagePosition) and key.number > 0
