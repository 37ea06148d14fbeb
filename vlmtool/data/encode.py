"""Token ids of a text, and where they stand around its edges; words met before are not tokenized again."""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, pairwise
from typing import Any, TypeVar

from tokenizers import Encoding, Tokenizer, models

Span = tuple[int, int]
Piece = tuple[list[int], list[Span]]
"""Ids, and the characters of each, counted from where the piece begins."""
V = TypeVar("V")

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


class Memo(dict[str, V]):
    """What a function made of short words; of a long one, which comes once, it is made anew."""

    def __init__(self, make: Callable[[str], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, word: str) -> V:
        made = self._make(word)
        if len(word) <= LONGEST_WORD and len(self) < MOST_WORDS:
            self[word] = made
        return made


class Encoded:
    """The tokens of a text, and where those around its edges stand.

    Args:
        keeps_ids: else the tokens are counted only.
    """

    def __init__(self, keeps_ids: bool = True) -> None:
        self.ids: list[int] = []
        self.num_tokens = 0
        self.keeps_ids = keeps_ids
        self._starts: list[int] = []
        """First character of each piece around an edge."""
        self._firsts: list[int] = []
        """Index of its first token."""
        self._pieces: list[Piece] = []

    def add_piece(self, piece: Piece, start: int) -> None:
        """Append the tokens around an edge; they begin at character `start` of the text."""
        self._starts.append(start)
        self._firsts.append(self.num_tokens)
        self._pieces.append(piece)
        self.add(piece[0], len(piece[0]))

    def add(self, ids: Iterable[int], number: int) -> None:
        """Append tokens that no edge touches; `ids` are drawn where they are kept."""
        self.num_tokens += number
        if self.keeps_ids:
            self.ids += ids

    def first_from(self, edge: int) -> int:
        """Index of the first token that starts at character `edge` or after it."""
        number = self._piece(edge)
        return self._firsts[number] + self._from(number, edge)

    def first_beyond(self, edge: int) -> int:
        """Index of the first token that ends after character `edge`."""
        number = self._piece(edge)
        return self._firsts[number] + self._beyond(number, edge)

    def straddles(self, edge: int) -> bool:
        """A token holds characters from both sides of `edge`."""
        number = self._piece(edge)
        before = self._from(number, edge) - 1
        return before >= 0 and _end(self._pieces[number][1][before]) > edge - self._starts[number]

    def ids_between(self, start: int, edge: int) -> list[int]:
        """Ids of the tokens from character `start` up to an edge close behind it."""
        number = self._piece(start)
        return self._pieces[number][0][self._from(number, start) : self._beyond(number, edge)]

    def places(self, token_id: int) -> list[int]:
        """Indices of a token that stands at edges alone."""
        return [
            first + place
            for first, (ids, _) in zip(self._firsts, self._pieces, strict=True)
            if token_id in ids
            for place, here in enumerate(ids)
            if here == token_id
        ]

    def _piece(self, edge: int) -> int:
        return bisect_right(self._starts, edge) - 1

    def _from(self, number: int, edge: int) -> int:
        return bisect_left(self._pieces[number][1], edge - self._starts[number], key=_start)

    def _beyond(self, number: int, edge: int) -> int:
        return bisect_right(self._pieces[number][1], edge - self._starts[number], key=_end)


def _start(span: Span) -> int:
    """Where a token begins. A byte-level tokenizer that trims offsets gives a token of spaces no width: it stands
    before where it ends.
    """
    start, end = span
    return start if start < end else end - 1


def _end(span: Span) -> int:
    return span[1]


class TextEncoder:
    """Tokenizes texts, without special tokens around them.

    Between edges a text is cut into words, of which each is tokenized once. What stands around an edge is one piece,
    of whose tokens the characters are known.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cuts = joins_no_words(tokenizer)
        self._ids = Memo(self._word)
        self._widths = Memo(self._width)
        self._beginnings = Memo(self._piece)
        self._pieces = Memo(self._piece_after_space)
        self._anchor_length = len(tokenizer.encode(_ANCHOR, add_special_tokens=False))

    def add(self, encoded: Encoded, text: str, start: int, edges: Sequence[int] = ()) -> None:
        """Append the tokens of `text`, which begins at character `start`; of `edges`, ascending, those inside count."""
        if not self._cuts:
            encoded.add_piece(self._piece(text), start)
            return
        inside = [edge - start for edge in edges if start < edge < start + len(text)]
        piece, place, known = "", start, self._beginnings
        for first, stop in pairwise([0, *inside, len(text)]):
            begun, *words = _EDGE.split(text[first:stop])
            piece += begun
            if words:
                encoded.add_piece(known[piece], place)
                piece, known = words.pop(), self._pieces
                place = start + stop - len(piece) - 1
                self._add_words(encoded, words)
        encoded.add_piece(known[piece], place)

    def _add_words(self, encoded: Encoded, words: Sequence[str]) -> None:
        if encoded.keeps_ids:
            ids = list(chain.from_iterable(map(self._ids.__getitem__, words)))
            encoded.add(ids, len(ids))
        else:
            encoded.add((), sum(map(self._widths.__getitem__, words)))

    def _word(self, text: str) -> list[int]:
        """Ids of a word, with the space before it."""
        return self._after_space(text).ids[self._anchor_length :]

    def _width(self, text: str) -> int:
        return len(self._word(text))

    def _piece_after_space(self, text: str) -> Piece:
        result = self._after_space(text)
        offsets = [(start - 1, end - 1) for start, end in result.offsets[self._anchor_length :]]
        return result.ids[self._anchor_length :], _with_first_character(offsets)

    def _piece(self, text: str) -> Piece:
        result = self._tokenizer.encode(text, add_special_tokens=False)
        return result.ids, _with_first_character(result.offsets)

    def _after_space(self, text: str) -> Encoding:
        return self._tokenizer.encode(f"{_ANCHOR} {text}", add_special_tokens=False)


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
