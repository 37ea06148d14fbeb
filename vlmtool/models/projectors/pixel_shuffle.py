"""Blocks of neighbouring patches folded into the channels, then an MLP: InternVL's projector."""

from typing import Any

from torch import Tensor, nn

from vlmtool.models.projectors.base import Projector, check_counts, grid_side
from vlmtool.utils.errors import RecipeError


class PixelShuffleProjector(Projector):
    """Each `factor` x `factor` block of the grid, row by row, becomes one token; LayerNorm, Linear, GELU, Linear.

    InternVL's own weights are named `mlp1.0`, `mlp1.1`, `mlp1.3` for `model.0`, `model.1`, `model.3` here; those in
    transformers' format `multi_modal_projector.layer_norm`, `.linear_1`, `.linear_2`.

    Source: InternVL 1.5, https://arxiv.org/abs/2404.16821.
    """

    needs_square_grid = True
    makes_grid = True

    def __init__(self, vision_hidden_size: int, llm_hidden_size: int, factor: int = 2) -> None:
        super().__init__(vision_hidden_size, llm_hidden_size)
        check_counts(self, factor=factor)
        self.factor = factor
        width = factor * factor * vision_hidden_size
        self.model = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, llm_hidden_size),
            nn.GELU(),
            nn.Linear(llm_hidden_size, llm_hidden_size),
        )

    def forward(self, patch_features: Tensor) -> Tensor:
        """(I, N, D_vision) → (I, N / factor², D_llm)."""
        cells = self._cells(patch_features.shape[1])
        parts = patch_features.unflatten(1, (cells, self.factor, cells, self.factor))
        blocks = parts.transpose(2, 3).flatten(3)  # (I, cells, cells, factor² · D_vision), rows of a block first
        return self.model(blocks.flatten(1, 2))

    def num_tokens(self, num_patches: int) -> int:
        """N / factor².

        Raises:
            RecipeError: N is no square, or its side no multiple of factor.
        """
        return self._cells(num_patches) ** 2

    def options(self) -> dict[str, Any]:
        """factor."""
        return {"factor": self.factor}

    def _cells(self, num_patches: int) -> int:
        """Tokens along a side."""
        side = grid_side(self, num_patches)
        if side % self.factor:
            raise RecipeError(
                f"projector: PixelShuffleProjector folds {self.factor} x {self.factor} patches into a token, and "
                f"{num_patches} patches are {side} x {side}.\nSet projector.factor to a divisor of {side}."
            )
        return side // self.factor
