"""Several rows over one row of the KV cache: where each stands, and a mask that hides them from one another.

Tree attention (arXiv 2305.09781, section 4.2) for branches that are given: what rows share is neither computed nor
stored once more for each of them.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlmtool.models.attention import NAME

WORTH_PACKING = 2  # slots per row at most: empty ones are computed, too
SHARING = (
    "llama", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "mistral", "mixtral", "phi", "phi3", "gemma", "glm", "glm4",
    "olmo", "olmo2", "smollm3", "granite", "starcoder2", "opt", "gpt_neox", "gpt2",
)  # fmt: skip
"""Model types that were seen to give the same logits so. Others may do more with a mask than to add it."""


class Slots:
    """Places side by side behind a trunk; every trunk has as many as the one with the most rows needs.

    Args:
        trunk_of: of each row, its trunk; trunks are counted from 0 and each has a row.
    """

    def __init__(self, trunk_of: Sequence[int]) -> None:
        rows_of = Counter(trunk_of)
        self.num_trunks = len(rows_of)
        self.width = max(rows_of.values())
        taken: Counter[int] = Counter()
        self._number: list[int] = []  # of each row, its slot within its trunk
        for trunk in trunk_of:
            self._number.append(taken[trunk])
            taken[trunk] += 1
        self._place = [trunk * self.width + number for trunk, number in zip(trunk_of, self._number, strict=True)]

    @property
    def are_worth_it(self) -> bool:
        """Whether few of them stay empty."""
        return self.num_trunks * self.width <= WORTH_PACKING * len(self._place)

    def pack(self, values: Tensor) -> Tensor:
        """(B, T, ...) of the rows to (trunks, width * T, ...); zeros where no row stands."""
        packed = values.new_zeros(self.num_trunks * self.width, *values.shape[1:])
        packed[self._place] = values
        return packed.view(self.num_trunks, -1, *values.shape[2:])

    def last_of_each(self, length: int) -> Tensor:
        """Of what is packed behind a trunk, where each slot's last position is, given the slots' length."""
        return torch.arange(length - 1, self.width * length, length)

    def unpack(self, values: Tensor) -> Tensor:
        """(trunks, width, V) to (B, V) of the rows."""
        return values.flatten(0, 1)[self._place]

    def columns(self, mask: Tensor) -> Tensor:
        """(B, T) of the rows' own positions to (B, width * T), as they stand behind a trunk; zeros at the others'."""
        batch, length = mask.shape
        columns = mask.new_zeros(batch, self.width, length)
        columns[range(batch), self._number] = mask
        return columns.flatten(1)

    def attention_mask(self, seen: Tensor, length: int) -> Tensor:
        """Which positions each one sees: (trunks, 1, width * T, positions), bool.

        Args:
            seen: (B, positions), bool, the packed ones last; of its own, a row sees none that follow.
            length: T.
        """
        new = self.width * length
        past = seen.shape[1] - new
        step = torch.arange(length, device=seen.device)
        sees = seen[:, None, :].repeat(1, length, 1)
        sees[:, :, past:] &= step.repeat(self.width) <= step[:, None]
        packed = self.pack(sees)
        packed[:, :, past:] |= torch.eye(new, dtype=torch.bool, device=seen.device)  # nothing to see would be NaN
        return packed[:, None]


def takes_any_mask(llm: nn.Module) -> bool:
    """Whether all that happens between positions is attention under a mask that the caller may give.

    Not so with attention windows, and with kernels that know causal masks only or add masks of numbers. peft's wrapper
    hands such questions on.
    """
    config = getattr(llm, "config", None)
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        getattr(config, "model_type", None) in SHARING
        and getattr(config, "_attn_implementation", None) in ("sdpa", NAME)
        and layers == {"full_attention"}
        and not (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True))
    )
