"""The language model step by step over a KV cache: prefill, feed, drop rows; and a cache that lives between turns."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from vlmtool.models.prefix import begin, without_prefix


class Decoder:
    """A batch of rows in the middle of decoding.

    Args:
        kv: what is already prefilled, the same positions in every row; new and empty unless given. An empty one begins
            with the LLM's prefix, where that has one.
    """

    def __init__(self, llm: PreTrainedModel, kv: DynamicCache | None = None) -> None:
        self._llm = llm
        self._model = without_prefix(llm)
        self.kv = DynamicCache() if kv is None else kv
        self._mask: Tensor | None = None  # (B, positions so far); None where no row is padded
        self._next_position: Tensor | None = None  # (B, 1)

    def prefill(self, inputs_embeds: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run prompts, or what follows in them after what is already prefilled; logits (B, V) of the next token.

        Args:
            inputs_embeds: (B, T, D), padded on the left.
            mask: (B, T), 0 at padding; None without padding.
        """
        batch, length, _ = inputs_embeds.shape
        if not self.kv.get_seq_length():
            begin(self._llm, self.kv, batch)
        past = self.kv.get_seq_length()
        start = past if self._next_position is None else self._next_position
        if mask is None:
            positions = start + torch.arange(length, device=inputs_embeds.device).expand(batch, -1)
        else:
            positions = start + (mask.cumsum(-1) - 1).clamp(min=0)
        if mask is not None or self._mask is not None:
            new = torch.ones(batch, length, dtype=torch.long, device=inputs_embeds.device) if mask is None else mask
            self._mask = torch.cat([new.new_ones(batch, past) if self._mask is None else self._mask, new], dim=1)
        self._next_position = positions[:, -1:] + 1
        return self._run(inputs_embeds, positions)

    def feed(self, tokens: Tensor) -> Tensor:
        """Run one token per row, (B,); logits (B, V) of the next."""
        if self._next_position is None:
            raise RuntimeError("Decoder.feed was called before prefill.")
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        positions, self._next_position = self._next_position, self._next_position + 1
        return self._run(self._llm.get_input_embeddings()(tokens[:, None]), positions)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only; finished ones cost nothing more. A row may be named several times."""
        self.kv.batch_select_indices(rows)
        if self._mask is not None:
            self._mask = self._mask[rows]
        if self._next_position is not None:
            self._next_position = self._next_position[rows]

    def _run(self, inputs_embeds: Tensor, positions: Tensor) -> Tensor:
        output = self._model(
            inputs_embeds=inputs_embeds, attention_mask=self._mask, position_ids=positions,
            past_key_values=self.kv, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        return output.logits[:, -1]


class PromptCache:
    """Keys and values of one conversation, kept from turn to turn.

    `keys` says of each cached position what stands there: a token id, or which image and which of its tokens. Equal
    beginnings of two prompts are computed once.
    """

    def __init__(self) -> None:
        self.kv = DynamicCache()
        self.keys: list[Hashable] = []
        self.num_prefilled = 0
        """Tokens of the last prompt that had to be computed."""

    def reuse(self, keys: Sequence[Hashable]) -> int:
        """Crop to what the prompt begins with as well; returns the number of tokens that need not be computed.

        At least one is left to compute, and an image is taken over whole or not at all.
        """
        common = 0
        limit = min(len(self.keys), len(keys) - 1)
        while common < limit and self.keys[common] == keys[common]:
            common += 1
        while isinstance(key := keys[common], ImagePosition) and key.number > 0:
            common -= 1
        if common == 0:
            self.kv, self.keys = DynamicCache(), []
        elif (surplus := len(self.keys) - common) > 0:
            with self.changing():
                self.kv.crop(-surplus)
                del self.keys[common:]
        self.num_prefilled = len(keys) - common
        return common

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around a computation: one that is interrupted leaves layers of unequal length behind, so all is dropped."""
        done = False
        try:
            yield
            done = True
        finally:
            if not done:
                self.kv, self.keys = DynamicCache(), []


class ImagePosition(NamedTuple):
    """One image token in a prompt: equal to another only if it is the same token of the same image."""

    image: Hashable
    number: int
