"""Token ids of a text and the characters each was made from; words met before are not tokenized again."""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

from tokenizers import Tokenizer, models

Span = tuple[int, int]
Word = tuple[list[int], list[Span]]
"""Ids, and the characters of each, counted from where the word begins."""

MOST_WORDS = 1 << 18  # remembered: up to 120 MB in a process, where a data set has as many
LONGEST_WORD = 24  # characters; longer ones come once
# A space at which a text can be cut where `joins_no_words` holds, whatever stands further away.
_EDGE = re.compile(r" (?<=[a-z,.] )(?=[A-Za-z])")
_JOINED = re.compile(
    "[a-z,.][ Ġ▁]"
)  # a space after a word: as it is, as byte-level BPE writes it, as SentencePiece does
_ANCHOR = "a"  # a word stands after it when it is tokenized, so that it is not taken for the beginning of a text
_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_ENGLISH + r"\p{N}{1,3}" + _REST, _ENGLISH + r"\p{N}" + _REST}
"""How Llama 3 and Qwen2 cut a text into words: a word takes the space before it, and none takes one after it."""


class Encoded:
    """A text's token ids, and where each stands; made of pieces that no token crosses."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._starts: list[int] = []
        """First character of each piece."""
        self._firsts: list[int] = []
        """Index of each piece's first token."""
        self._offsets: list[list[Span]] = []
        """Characters of each piece's tokens, counted from where the piece begins."""

    def add(self, words: Sequence[Word], starts: Sequence[int]) -> None:
        """Append words; each begins at a character of the text."""
        pieces, offsets = zip(*words, strict=True)
        self._starts += starts
        self._firsts += accumulate(map(len, pieces[:-1]), initial=len(self.ids))
        self._offsets += offsets
        self.ids += chain.from_iterable(pieces)

    def first_from(self, place: int) -> int:
        """Index of the first token that starts at character `place` or after it."""
        piece = self._piece(place)
        return self._firsts[piece] + bisect_left(self._offsets[piece], place - self._starts[piece], key=_start)

    def first_beyond(self, place: int) -> int:
        """Index of the first token that ends after character `place`."""
        piece = self._piece(place)
        return self._firsts[piece] + bisect_right(self._offsets[piece], place - self._starts[piece], key=_end)

    def straddles(self, place: int) -> bool:
        """A token holds characters from both sides of `place`."""
        piece = self._piece(place)
        inside = place - self._starts[piece]
        before = bisect_left(self._offsets[piece], inside, key=_start) - 1
        return before >= 0 and _end(self._offsets[piece][before]) > inside

    def _piece(self, place: int) -> int:
        return bisect_right(self._starts, place) - 1


def _start(span: Span) -> int:
    """Where a token begins. A byte-level tokenizer that trims offsets gives a token of spaces no width: it stands
    before where it ends.
    """
    start, end = span
    return start if start < end else end - 1


def _end(span: Span) -> int:
    return span[1]


class TextEncoder:
    """Tokenizes texts, without special tokens around them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cuts = joins_no_words(tokenizer)
        self._words: dict[str, Word] = {}
        self._anchor_length = len(tokenizer.encode(_ANCHOR, add_special_tokens=False))

    def add(self, encoded: Encoded, text: str, start: int) -> None:
        """Append the tokens of `text`, which begins at character `start`."""
        first, *words = _EDGE.split(text) if self._cuts else [text]
        starts = [start]
        start += len(first)
        for word in words:
            starts.append(start)
            start += len(word) + 1
        beginning, known = self._encode(first), list(map(self._words.get, words))
        if not all(known):
            known = [self._words.get(word) or self._learn(word) for word in words]
        encoded.add([beginning, *filter(None, known)], starts)

    def _encode(self, text: str) -> Word:
        result = self._tokenizer.encode(text, add_special_tokens=False)
        return result.ids, _with_first_character(result.offsets)

    def _learn(self, text: str) -> Word:
        """Tokens of a word, with the space before it."""
        result = self._tokenizer.encode(f"{_ANCHOR} {text}", add_special_tokens=False)
        offsets = [(start - 1, end - 1) for start, end in result.offsets[self._anchor_length :]]
        word = result.ids[self._anchor_length :], _with_first_character(offsets)
        if len(text) <= LONGEST_WORD and len(self._words) < MOST_WORDS:
            self._words[text] = word
        return word


def joins_no_words(tokenizer: Tokenizer) -> bool:
    """Whether a text can be cut before the space between two words, and its parts be tokenized one by one.

    True for BPE whose vocabulary has no token with a space after a letter, so that no merge crosses the cut, and
    whose normalizer, pre-tokenizer and added tokens are known to do the same on both sides of the cut as without it.
    False where that is not known.
    """
    model = tokenizer.model
    if (
        not isinstance(model, models.BPE)
        or model.dropout
        or model.continuing_subword_prefix
        or model.end_of_word_suffix
    ):
        return False
    if model.fuse_unk and not model.byte_fallback:
        return False
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip or token.single_word or _JOINED.search(token.content) for token in added):
        return False
    steps = [*_steps(tokenizer.normalizer, "normalizers"), *_steps(tokenizer.pre_tokenizer, "pretokenizers")]
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    return all(map(_keeps_edges, steps)) and not any(map(_JOINED.search, vocabulary))


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    """What a normalizer or pre-tokenizer does, step by step, as tokenizer.json writes it."""
    if part is None:
        return []
    step = json.loads(part.__getstate__())
    return step[name] if step["type"] == "Sequence" else [step]


def _keeps_edges(step: dict[str, Any]) -> bool:
    match step:
        case {"type": "NFC" | "Prepend" | "ByteLevel" | "Metaspace" | "Digits"}:
            return True
        case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
            return True
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            return pattern in _SPLITS
    return False


def _with_first_character(offsets: list[Span]) -> list[Span]:
    """A token without width at the beginning of a text ends after its first character."""
    for place, (start, end) in enumerate(offsets):
        if end > 0:
            break
        offsets[place] = (start, 1)
    return offsets
