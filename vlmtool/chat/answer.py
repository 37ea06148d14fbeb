"""An answer while it grows: tokens in, readable text out, and where it ends."""

from collections.abc import Collection, Sequence

from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\ufffd"  # how a decoder shows the first bytes of a character whose last ones are still to come


class Answer:
    """One answer's tokens, decoded without special tokens.

    Args:
        max_tokens: it ends after so many.
        stop_ids: tokens at which it ends; they are not part of it.
        stop_words: texts at which it ends, however they are tokenised; neither they nor what follows are part of it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int,
        stop_ids: Collection[int] = (),
        stop_words: Sequence[str] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._stop_ids = frozenset(stop_ids)
        self._stop_words = [word for word in stop_words if word]
        self._shown = 0
        self.tokens: list[int] = []
        self.is_finished = False

    def push(self, token: int) -> None:
        """Take the next token."""
        if token in self._stop_ids:
            self.is_finished = True
            return
        self.tokens.append(token)
        self.is_finished = len(self.tokens) >= self._max_tokens or self._holds_stop_word()

    @property
    def text(self) -> str:
        """All of it so far, without surrounding whitespace."""
        decoded = self._decode()
        return decoded[: self._stop_position(decoded)].strip()

    def new_piece(self) -> str:
        """What can be shown beyond the pieces given before; the pieces together are `text`.

        Held back until it is known how they go on: half of a character, whitespace that may be the answer's end,
        and what may be the beginning of a stop word.
        """
        if self.is_finished:
            visible = self.text
        else:
            decoded = self._decode().rstrip(_INCOMPLETE)
            visible = decoded[: len(decoded) - self._possible_stop(decoded)].strip()
        piece = visible[self._shown :]
        self._shown = max(self._shown, len(visible))
        return piece

    def _decode(self) -> str:
        return self._tokenizer.decode(self.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _holds_stop_word(self) -> bool:
        if not self._stop_words:
            return False
        decoded = self._decode()
        return self._stop_position(decoded) < len(decoded)

    def _stop_position(self, decoded: str) -> int:
        """Where the first stop word begins; the length of the text where there is none."""
        found = [position for word in self._stop_words if (position := decoded.find(word)) >= 0]
        return min(found, default=len(decoded))

    def _possible_stop(self, decoded: str) -> int:
        """Length of the longest end of the text with which a stop word begins."""
        lengths = (k for word in self._stop_words for k in range(1, len(word)) if decoded.endswith(word[:k]))
        return max(lengths, default=0)
