"""Linear layers with an activation between them: LLaVA-1.5's projector at depth 2."""

from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN

from vlmtool.models.projectors.base import Projector, check_counts


class MLPProjector(Projector):
    """Linear, then (depth - 1) times activation and Linear. Weights are named `model.0`, `model.2`, … .

    Source: LLaVA-1.5, https://arxiv.org/abs/2310.03744, section 3.2.
    """

    makes_grid = True

    def __init__(
        self, vision_hidden_size: int, llm_hidden_size: int, depth: int = 2, hidden_act: str = "gelu", bias: bool = True
    ) -> None:
        super().__init__(vision_hidden_size, llm_hidden_size)
        check_counts(self, depth=depth)
        self._options = {"depth": depth, "hidden_act": hidden_act, "bias": bias}
        layers: list[nn.Module] = [nn.Linear(vision_hidden_size, llm_hidden_size, bias=bias)]
        for _ in range(depth - 1):
            layers += [ACT2FN[hidden_act], nn.Linear(llm_hidden_size, llm_hidden_size, bias=bias)]
        self.model = nn.Sequential(*layers)

    def forward(self, patch_features: Tensor) -> Tensor:
        """(I, N, D_vision) → (I, N, D_llm)."""
        return self.model(patch_features)

    def options(self) -> dict[str, Any]:
        """depth, hidden_act, bias."""
        return dict(self._options)
