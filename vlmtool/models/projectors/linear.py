"""One linear layer: the first LLaVA's projector."""

from typing import Any

from torch import Tensor, nn

from vlmtool.models.projectors.base import Projector


class LinearProjector(Projector):
    """Source: LLaVA, https://arxiv.org/abs/2304.08485, section 4.1."""

    makes_grid = True

    def __init__(self, vision_hidden_size: int, llm_hidden_size: int, bias: bool = True) -> None:
        super().__init__(vision_hidden_size, llm_hidden_size)
        self.model = nn.Sequential(nn.Linear(vision_hidden_size, llm_hidden_size, bias=bias))

    def forward(self, patch_features: Tensor) -> Tensor:
        """(I, N, D_vision) → (I, N, D_llm)."""
        return self.model(patch_features)

    def options(self) -> dict[str, Any]:
        """bias."""
        return {"bias": self.model[0].bias is not None}
