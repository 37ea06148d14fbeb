"""Learned queries that read the patches through BLIP-2's Q-Former, then one linear layer."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from vlmtool.models.projectors.base import Projector, activation, check_counts


class QFormerProjector(Projector):
    """LayerNorm of the patch features; a Q-Former, whose queries attend to one another and to them; Linear.

    Weights are named as in transformers' `Blip2ForConditionalGeneration` (`query_tokens`, `qformer`,
    `language_projection`); `ln_vision`, so named in BLIP-2's own files, is `vision_model.post_layernorm` there.

    Args:
        num_queries: tokens per image.
        hidden_size: width of the Q-Former.
        cross_attention_frequency: every so many layers, from the first on, read the patches.
        dropout: of hidden states and attention.

    Source: BLIP-2, https://arxiv.org/abs/2301.12597, section 3.1; with a frozen LLM as in X-LLM,
    https://arxiv.org/abs/2305.04160.
    """

    def __init__(
        self,
        vision_hidden_size: int,
        llm_hidden_size: int,
        num_queries: int = 32,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        cross_attention_frequency: int = 2,
        hidden_act: str = "gelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vision_hidden_size, llm_hidden_size)
        counts = {
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "intermediate_size": intermediate_size,
            "cross_attention_frequency": cross_attention_frequency,
        }
        check_counts(self, num_queries=num_queries, **counts)
        activation(self, hidden_act)
        if not 0 <= dropout < 1:
            raise ValueError(f"QFormerProjector: dropout is {dropout}; it takes a number from 0 on, below 1.")
        self._options = {"num_queries": num_queries, **counts, "hidden_act": hidden_act, "dropout": dropout}
        config = Blip2QFormerConfig(
            encoder_hidden_size=vision_hidden_size,
            hidden_act=hidden_act,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            **counts,
        )
        self.query_tokens = nn.Parameter(torch.empty(1, num_queries, hidden_size).normal_(std=config.initializer_range))
        self.ln_vision = nn.LayerNorm(vision_hidden_size)
        self.qformer = Blip2QFormerModel(config)
        self.language_projection = nn.Linear(hidden_size, llm_hidden_size)

    def forward(self, patch_features: Tensor) -> Tensor:
        """(I, N, D_vision) → (I, num_queries, D_llm)."""
        hidden = self.query_tokens.expand(len(patch_features), -1, -1)
        if len(patch_features):  # the Q-Former cannot split an empty batch into heads
            hidden = self.qformer(hidden, encoder_hidden_states=self.ln_vision(patch_features)).last_hidden_state
        return self.language_projection(hidden)

    def num_tokens(self, num_patches: int) -> int:
        """num_queries, for any N."""
        return self.query_tokens.shape[1]

    def options(self) -> dict[str, Any]:
        """num_queries and the shape of the Q-Former."""
        return dict(self._options)
