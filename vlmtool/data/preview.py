"""Samples as the model will see them: what is read, what is supervised, where the images stand."""

from dataclasses import dataclass
from typing import Literal

from vlmtool.data.conversation import Conversation, Image
from vlmtool.data.dataset import cut
from vlmtool.data.image_transform import ImageTransform, upright_size
from vlmtool.data.render import IGNORED, Renderer
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import DataError, shortened

Kind = Literal["prompt", "answer", "image"]


@dataclass(frozen=True)
class Piece:
    """A run of tokens of one kind, as text; an image's is its placeholder `[image 16 tokens: a.jpg 96×72]`."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Preview:
    """One sample. `answer` pieces are supervised; `num_tokens` counts image tokens, after a cut."""

    id: str
    origin: str
    pieces: tuple[Piece, ...]
    num_tokens: int
    num_supervised: int
    num_cut: int
    """Tokens beyond max_length, which the model does not see."""


def preview_sample(
    conversation: Conversation, renderer: Renderer, transform: ImageTransform, max_length: int
) -> Preview:
    """Render a sample as training does, and turn the ids back into text.

    Raises:
        DataError: it cannot be rendered, or an image would be cut.
    """
    whole = renderer.sample(conversation)
    rendered = cut(whole, max_length, conversation, renderer.image_token_id)
    counts = [renderer.num_image_tokens(image) for image in conversation.images]
    ids, kinds = collapse_images(rendered.input_ids, rendered.labels, renderer.image_token_id, counts)
    placeholders = iter([_placeholder(i, n, transform) for i, n in zip(conversation.images, counts, strict=True)])
    pieces: list[Piece] = []
    start = 0
    for end in range(1, len(ids) + 1):
        if end < len(ids) and kinds[end] == kinds[start] != "image":
            continue
        text = next(placeholders) if kinds[start] == "image" else _text_of(renderer, ids, start, end)
        pieces.append(Piece(kinds[start], text))
        start = end
    return Preview(
        conversation.id, conversation.origin, tuple(pieces), len(rendered.input_ids), rendered.num_supervised,
        len(whole.input_ids) - len(rendered.input_ids),
    )  # fmt: skip


def collapse_images(
    input_ids: list[int], labels: list[int], image_token_id: int, counts: list[int]
) -> tuple[list[int], list[Kind]]:
    """Ids with one token for each image, and the kind of each token.

    Args:
        counts: tokens of each image in `input_ids`, in order.
    """
    ids: list[int] = []
    kinds: list[Kind] = []
    remaining = iter(counts)
    position = 0
    while position < len(input_ids):
        is_image = input_ids[position] == image_token_id
        ids.append(input_ids[position])
        kinds.append("image" if is_image else "prompt" if labels[position] == IGNORED else "answer")
        position += next(remaining) if is_image else 1
    return ids, kinds


def _text_of(renderer: Renderer, ids: list[int], start: int, end: int) -> str:
    """Text of a run, taken from the text of all ids up to it: alone, many tokenizers drop its first space."""
    before = renderer.tokenizer.decode(ids[:start], skip_special_tokens=False)
    return renderer.tokenizer.decode(ids[:end], skip_special_tokens=False)[len(before) :]


def _placeholder(image: Image, num_tokens: int, transform: ImageTransform) -> str:
    """What stands for an image; one that cannot be opened says so."""
    if not isinstance(image.source, str):
        return f"[image {counted(num_tokens, 'token')}: {image.source.width}×{image.source.height}]"
    try:
        width, height = upright_size(transform.image_folder / image.source)
        size = f"{width}×{height}"
    except DataError:
        size = "cannot be read"
    return f"[image {counted(num_tokens, 'token')}: {shortened(image.source)} {size}]"
