"""How an answer is drawn: the settings, and the choice of the next token of each row."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are made. Temperature 0 is greedy; top_k 0 and top_p 1 do not narrow the choice."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    """Over the tokens of the answer, not of the prompt."""
    seed: int = 0
    stop_words: tuple[str, ...] = ()
    """Texts that end an answer, beside the template's and EOS."""


class Sampler:
    """Chooses next tokens for the rows of a batch.

    Each row draws from random numbers of its own, all seeded alike, so that an answer does not depend on which
    others it is made with.
    """

    def __init__(self, settings: GenerationSettings, rows: int, device: torch.device | str) -> None:
        self._is_greedy = settings.temperature == 0
        self._processors = _processors(settings)
        self._random = [torch.Generator().manual_seed(settings.seed) for _ in range(rows)]
        self._chosen = torch.empty(rows, 0, dtype=torch.long, device=device)

    def pick(self, logits: Tensor) -> Tensor:
        """Token ids (B,) from the logits (B, V) of the next position."""
        scores = self._processors(self._chosen, logits.float())
        tokens = scores.argmax(-1) if self._is_greedy else self._draw(scores)
        self._chosen = torch.cat([self._chosen, tokens[:, None]], dim=1)
        return tokens

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self._random = [self._random[row] for row in rows.tolist()]
        self._chosen = self._chosen[rows]

    def _draw(self, scores: Tensor) -> Tensor:
        """By inverse of the cumulative distribution: one number per row, the same on every device."""
        cumulative = scores.softmax(-1).double().cumsum(-1)
        numbers = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in self._random])
        targets = numbers.to(cumulative.device) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, targets, right=True).squeeze(-1).clamp(max=scores.shape[-1] - 1)


def _processors(settings: GenerationSettings) -> LogitsProcessorList:
    """transformers' processors, in its order."""
    processors = LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.temperature > 0:
        if settings.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k > 0:
            processors.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1.0:
            processors.append(TopPLogitsWarper(settings.top_p))
    return processors
