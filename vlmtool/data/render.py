"""From a conversation to token ids and labels, through the chat template; the same for training and for prompts."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from vlmtool.data.conversation import Conversation, Image, Message
from vlmtool.data.encode import Encoded, Span, TextEncoder
from vlmtool.data.templates.frame import Frame, frame_of, marks, only_places_texts
from vlmtool.data.templates.library import ChatTemplate
from vlmtool.data.templates.typed import TypedTemplate, typed_template
from vlmtool.data.tokenizer import IMAGE_TAG, image_token_id
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import DataError, shortened

IGNORED = -100  # label of a token that is not supervised, as in Hugging Face
MOST_FRAMES = 1000  # remembered: rows of roles are as many as numbers of turns, where roles take turns
# Stands for a tag that is plain text (in an answer) while the template is rendered; no text of users holds it.
_LITERAL = "\ue0f1"
_TAG = re.compile(re.escape(IMAGE_TAG))
_PIECE = re.compile(f"{_LITERAL}|[^{_LITERAL}]+")


@dataclass(frozen=True)
class Rendered:
    """Token ids with each image expanded to its image tokens, and labels (-100: not supervised), both of length T."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_supervised(self) -> int:
        """Number of tokens that make the loss; the first token predicts nothing from before it."""
        targets = self.labels[1:]
        return len(targets) - targets.count(IGNORED)


class Renderer:
    """Renders messages with one template and one tokenizer.

    Args:
        tokenizer: with the image tag as a token (`load_tokenizer`).
        template: with marked assistant spans where samples are rendered.
        num_image_tokens: how many image tokens an image takes; asked once per image, before it is decoded.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, num_image_tokens: Callable[[Image], int]
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.num_image_tokens = num_image_tokens
        self.image_token_id = image_token_id(tokenizer)
        self._marks_answers = template.marks_answers
        self._typed = typed_template(template.jinja)
        self._is_framed = only_places_texts(template.jinja)
        self._frames: dict[tuple[tuple[str, ...], bool], Frame] = {}
        self._ids_of_spaces: dict[str, list[int]] = {}
        literal_ids = tokenizer.encode(IMAGE_TAG, add_special_tokens=False, split_special_tokens=True)
        self._literal = literal_ids, [(0, 1)] * len(literal_ids)
        tokenizer.backend_tokenizer.encode_special_tokens = False  # as it was before it was asked for the literal tag
        # What transformers wraps around a tokenizer takes a fifth of the time.
        self._encoder = TextEncoder(tokenizer.backend_tokenizer)

    def sample(self, conversation: Conversation) -> Rendered:
        """Token ids and labels of a training sample; only the assistant's answers, with their end, are supervised.

        Raises:
            DataError: a template without marks, or tags and images that do not match; the sample's id is named.
        """
        encoded, answers = self._tokens(conversation)
        ids = encoded.ids
        labels = [IGNORED] * len(ids)
        for first, stop in answers:
            labels[first:stop] = ids[first:stop]
        return self._expand(encoded, labels, conversation.images, conversation.id)

    def count(self, conversation: Conversation) -> tuple[int, int]:
        """Tokens of a training sample, and those supervised, as of `sample`, which takes longer.

        Raises:
            DataError: as of `sample`.
        """
        encoded, answers = self._tokens(conversation, keeps_ids=False)
        total, images = encoded.num_tokens, conversation.images
        supervised = sum(max(0, stop - max(first, 1)) for first, stop in answers)  # nothing predicts the first token
        for image, place in zip(images, self._places(encoded, images, conversation.id), strict=True):
            more = self.num_image_tokens(image) - 1
            total += more
            supervised += sum(more for first, stop in answers if first <= place < stop)
        return total, supervised

    def _tokens(self, conversation: Conversation, keeps_ids: bool = True) -> tuple[Encoded, list[Span]]:
        """Tokens with one for each image, and from where to where the answers stand among them."""
        if not self._marks_answers:
            raise DataError(
                "The chat template does not mark the answers ({% generation %}), so nothing can be learned.\n"
                "Name a marked one in llm.template: a shipped name or a .jinja file."
            )
        text, spans = self._render_text(conversation.messages, False, conversation.id)
        encoded = self._encode(text, spans, keeps_ids)
        return encoded, [(encoded.first_beyond(start), encoded.first_from(end)) for start, end in spans]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a prompt, up to where the assistant begins to answer."""
        text, spans = self._render_text(messages, True, "prompt")
        encoded = self._encode(text, spans)
        images = [image for message in messages for image in message.images]
        return self._expand(encoded, [IGNORED] * encoded.num_tokens, images, "prompt").input_ids

    def stop_ids(self) -> list[int]:
        """Ids at which an answer ends: EOS and those stop words of the template that are one token."""
        ids = [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
        for word in self.template.stop_words:
            tokens = self.tokenizer.encode(word, add_special_tokens=False)
            if len(tokens) == 1:
                ids.append(tokens[0])
        return sorted(set(ids))

    def _render_text(
        self, messages: Sequence[Message], add_generation_prompt: bool, sample_id: str
    ) -> tuple[str, list[Span]]:
        """The prompt as text, image tags in it, and the character spans of the assistant's answers."""
        contents = [_content(message, self._typed) for message in messages]
        roles = tuple(message.role for message in messages)
        if not self._is_framed:
            return self._render_contents(roles, contents, add_generation_prompt, sample_id)
        frame = self._frames.get((roles, add_generation_prompt))
        if frame is None:
            frame = frame_of(*self._render_contents(roles, marks(len(roles)), add_generation_prompt, sample_id))
            if len(self._frames) < MOST_FRAMES:
                self._frames[roles, add_generation_prompt] = frame
        return frame.filled(cast("list[str]", contents))  # such a template takes no parts

    def _render_contents(
        self, roles: Sequence[str], contents: Sequence[Any], add_generation_prompt: bool, sample_id: str
    ) -> tuple[str, list[Span]]:
        """The same by the template itself."""
        turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        special: dict[str, Any] = self.tokenizer.special_tokens_map
        try:
            texts, spans = render_jinja_template(
                [turns],
                chat_template=self.template.jinja,
                return_assistant_tokens_mask=self._marks_answers,
                add_generation_prompt=add_generation_prompt,
                **{"bos_token": "", "eos_token": "", **special},
            )
        except TemplateError as error:
            raise DataError(
                f"sample '{shortened(sample_id)}': the chat template does not take it: {error}\n"
                "Mend the record, or name another template in llm.template."
            ) from error
        return texts[0], [tuple(span) for span in spans[0]] if spans else []

    def _encode(self, text: str, spans: Sequence[Span], keeps_ids: bool = True) -> Encoded:
        """Tokens of `text`, with an edge between tokens where an answer begins and where it ends.

        A prompt ends where its answer begins, and its ids must be the first ids of the sample. Where the tokenizer
        would join characters of both, as in "\\n" + "\\n\\nYes", or split the prompt's last spaces because of what
        follows them, the text is encoded in pieces.
        """
        tags = [tag.start() for tag in _TAG.finditer(text)]
        edges = sorted({*chain.from_iterable(spans), *tags})
        encoded = self._encode_pieces(text, [], edges, keeps_ids)
        cuts = sorted(
            {edge for span in spans for edge in span if encoded.straddles(edge)}
            | {start for start, _ in spans if not self._spaces_stand_alone(encoded, text, start)}
        )
        return self._encode_pieces(text, cuts, edges, keeps_ids) if cuts else encoded

    def _spaces_stand_alone(self, encoded: Encoded, text: str, end: int) -> bool:
        """The spaces and line ends before character `end` have the ids that they have at the end of a text."""
        first = end
        while first > 0 and text[first - 1].isspace():
            first -= 1
        spaces = text[first:end]
        if not spaces:
            return True
        if spaces not in self._ids_of_spaces:
            self._ids_of_spaces[spaces] = self.tokenizer.encode(spaces, add_special_tokens=False)
        here = encoded.ids_between(first, end)
        return self._ids_of_spaces[spaces][-len(here) :] == here  # sentencepiece puts a "▁" before a text

    def _encode_pieces(self, text: str, cuts: Sequence[int], edges: Sequence[int], keeps_ids: bool) -> Encoded:
        """Tokens of `text`, cut at characters `cuts`. A literal tag is encoded as the text it is."""
        encoded = Encoded(keeps_ids)
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            for piece in _PIECE.finditer(text, start, end):
                if piece.group() == _LITERAL:
                    encoded.add_piece(self._literal, piece.start())
                    continue
                self._encoder.add(encoded, piece.group(), piece.start(), edges)
        return encoded

    def _places(self, encoded: Encoded, images: list[Image], sample_id: str) -> list[int]:
        """Indices of the image tokens, of which there is one for each image."""
        places = encoded.places(self.image_token_id)
        if len(places) != len(images):
            raise DataError(
                f"sample '{shortened(sample_id)}': {counted(len(places), 'image token')} in the rendered prompt, "
                f"but {counted(len(images), 'image')}.\n"
                "Does the chat template print every turn once, and no tag of its own?"
            )
        return places

    def _expand(self, encoded: Encoded, labels: list[int], images: list[Image], sample_id: str) -> Rendered:
        """Each image token repeated to the number of tokens its image takes."""
        tokens, input_ids, expanded, position = encoded.ids, list[int](), list[int](), 0
        for image, place in zip(images, self._places(encoded, images, sample_id), strict=True):
            count = self.num_image_tokens(image)
            input_ids += tokens[position:place] + [self.image_token_id] * count
            expanded += labels[position:place] + [labels[place]] * count
            position = place + 1
        return Rendered(input_ids + tokens[position:], expanded + labels[position:])


def _content(message: Message, typed: TypedTemplate | None) -> str | list[dict[str, str]]:
    """Content as the template sees it: media as their tag, tags that are text as a mark that no text holds."""
    pieces = [
        None if isinstance(part, Image) else part.replace(_LITERAL, "").replace(IMAGE_TAG, _LITERAL)
        for part in message.content
    ]
    if typed is not None:
        return typed.content(pieces)
    return "".join(IMAGE_TAG if piece is None else piece for piece in pieces)
