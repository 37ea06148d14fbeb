"""The language model step by step over a KV cache: prefill, feed, drop rows; and a cache that lives between turns."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from vlmtool.chat.slots import Slots, takes_any_mask
from vlmtool.models.prefix import begin, without_prefix


class Decoder:
    """A batch of rows in the middle of decoding.

    Rows that began alike go on from one cached beginning, their trunk: each writes behind it what is its own, and does
    not see what the others write there. Where the LLM does not allow that, or too few share, each gets a copy of it.

    Args:
        kv: what is already prefilled, the same positions in every row; new and empty unless given. An empty one begins
            with the LLM's prefix, where that has one.
    """

    def __init__(self, llm: PreTrainedModel, kv: DynamicCache | None = None) -> None:
        self._llm = llm
        self._model = without_prefix(llm)
        self._may_share = takes_any_mask(self._model)
        self.kv = DynamicCache() if kv is None else kv
        self._trunk_of: list[int] = []  # of each row, its row of the cache
        self._seen: Tensor | None = None  # (B, positions so far), bool; None where each row sees all of its trunk
        self._next_position: Tensor | None = None  # (B, 1)

    def prefill(self, inputs_embeds: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run prompts, or what follows in them after what is already prefilled; logits (B, V) of the next token.

        Args:
            inputs_embeds: (B, T, D), padded on the left.
            mask: (B, T), 0 at padding; None without padding.
        """
        batch = len(inputs_embeds)
        if not self.kv.get_seq_length():
            begin(self._llm, self.kv, batch)
        self._trunk_of = self._trunk_of or list(range(batch))
        return self._run(inputs_embeds, mask)

    def feed(self, tokens: Tensor) -> Tensor:
        """Run one token per row, (B,); logits (B, V) of the next."""
        if self._next_position is None:
            raise RuntimeError("Decoder.feed was called before prefill.")
        return self._run(self._llm.get_input_embeddings()(tokens[:, None]), None)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only; finished ones cost nothing more. A row may be named several times."""
        if self._next_position is None:
            raise RuntimeError("Decoder.keep was called before prefill.")
        index = torch.tensor(rows, device=self._next_position.device)
        trunks = [self._trunk_of[row] for row in rows]
        used = sorted(set(trunks))
        shared = [used.index(trunk) for trunk in trunks]
        if len(used) < len(rows) and self._may_share and Slots(shared).are_worth_it:
            if self._seen is None:
                past = self.kv.get_seq_length()
                self._seen = torch.ones(len(self._trunk_of), past, dtype=torch.bool, device=index.device)
            self._select(used)
            self._trunk_of = shared
        else:
            self._select(trunks)
            self._trunk_of = list(range(len(rows)))
        self._seen = None if self._seen is None else self._seen[index]
        self._next_position = self._next_position[index]

    def _select(self, trunks: Sequence[int]) -> None:
        """Rows of the cache, in this order; copies nothing where they are all there are."""
        if list(trunks) != list(range(max(self._trunk_of) + 1)):
            self.kv.batch_select_indices(torch.tensor(trunks, device=self.kv.layers[0].keys.device))

    def _run(self, inputs_embeds: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, _ = inputs_embeds.shape
        past = self.kv.get_seq_length()
        start = past if self._next_position is None else self._next_position
        if mask is None:
            positions = start + torch.arange(length, device=inputs_embeds.device).expand(batch, -1)
        else:
            positions = start + (mask.cumsum(-1) - 1).clamp(min=0)
        self._next_position = positions[:, -1:] + 1
        slots = Slots(self._trunk_of)
        if self._seen is not None or mask is not None or slots.width > 1:
            new = positions.new_ones(batch, length) if mask is None else mask
            before = new.new_ones(batch, past) if self._seen is None else self._seen
            self._seen = torch.cat([before.bool(), slots.columns(new.bool())], dim=1)
        if self._seen is None or slots.width == 1:
            return self._logits(inputs_embeds, self._seen, positions, 1)[:, -1]
        attention_mask = slots.attention_mask(self._seen, length)
        last = slots.last_of_each(length).to(inputs_embeds.device)
        return slots.unpack(self._logits(slots.pack(inputs_embeds), attention_mask, slots.pack(positions), last))

    def _logits(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, positions: Tensor, logits_to_keep: int | Tensor
    ) -> Tensor:
        output = self._model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=positions,
            past_key_values=self.kv, use_cache=True, logits_to_keep=logits_to_keep,
        )  # fmt: skip
        logits: Tensor = output.logits
        return logits


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
