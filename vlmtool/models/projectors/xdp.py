"""Groups of consecutive patches joined to one token each, then an MLP: Xmodel-VLM's projector."""

from typing import Any

from torch import Tensor, nn

from vlmtool.models.projectors.base import Projector, check_counts
from vlmtool.utils.errors import RecipeError


class XDPProjector(Projector):
    """`factor` patches that follow one another in raster order are concatenated; Linear, Mish, Linear.

    The published weights have the same names: `mlp.0`, `mlp.2`.

    Source: Xmodel-VLM, https://arxiv.org/abs/2405.09215.
    """

    def __init__(self, vision_hidden_size: int, llm_hidden_size: int, factor: int = 4) -> None:
        super().__init__(vision_hidden_size, llm_hidden_size)
        check_counts(self, factor=factor)
        self.factor = factor
        self.mlp = nn.Sequential(
            nn.Linear(factor * vision_hidden_size, llm_hidden_size),
            nn.Mish(),
            nn.Linear(llm_hidden_size, llm_hidden_size),
        )

    def forward(self, patch_features: Tensor) -> Tensor:
        """(I, N, D_vision) → (I, N / factor, D_llm)."""
        num_images, num_patches, width = patch_features.shape
        return self.mlp(patch_features.reshape(num_images, self.num_tokens(num_patches), self.factor * width))

    def num_tokens(self, num_patches: int) -> int:
        """N / factor.

        Raises:
            RecipeError: N is no multiple of factor.
        """
        if num_patches % self.factor:
            raise RecipeError(
                f"projector: XDPProjector joins {self.factor} patches to a token, and {num_patches} patches are no "
                "multiple.\nSet projector.factor to a divisor; a CLS token among them is left out by "
                "vision_encoder.select_strategy='patch'."
            )
        return num_patches // self.factor

    def options(self) -> dict[str, Any]:
        """factor."""
        return {"factor": self.factor}
