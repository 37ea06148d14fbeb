"""An MLP, pooling to a small grid and a convolution for the positions: MobileVLM V2's projector."""

from typing import Any

from torch import Tensor, nn

from vlmtool.models.projectors.base import Projector, check_counts, grid_side
from vlmtool.utils.errors import RecipeError


class LDPv2Projector(Projector):
    """Linear, GELU, Linear; mean over cells of the grid; plus a depthwise 3 x 3 convolution of it.

    The published weights (`model.mm_projector.…`) are named `mlp.mlp.0`, `mlp.mlp.2`, `peg.peg.0` for `mlp.0`, `mlp.2`,
    `positions` here.

    Args:
        grid_size: cells along a side: grid_size² tokens.

    Source: MobileVLM V2, https://arxiv.org/abs/2402.03766.
    """

    needs_square_grid = True
    makes_grid = True

    def __init__(self, vision_hidden_size: int, llm_hidden_size: int, grid_size: int = 12) -> None:
        super().__init__(vision_hidden_size, llm_hidden_size)
        check_counts(self, grid_size=grid_size)
        self.grid_size = grid_size
        self.mlp = nn.Sequential(
            nn.Linear(vision_hidden_size, llm_hidden_size), nn.GELU(), nn.Linear(llm_hidden_size, llm_hidden_size)
        )
        self.positions = nn.Conv2d(llm_hidden_size, llm_hidden_size, 3, padding=1, groups=llm_hidden_size)

    def forward(self, patch_features: Tensor) -> Tensor:
        """(I, N, D_vision) → (I, grid_size², D_llm)."""
        side = self._side(patch_features.shape[1])
        grid = self.mlp(patch_features).transpose(1, 2).unflatten(2, (side, side))  # (I, D_llm, side, side)
        grid = nn.functional.adaptive_avg_pool2d(grid, self.grid_size)
        return (grid + self.positions(grid)).flatten(2).transpose(1, 2)

    def num_tokens(self, num_patches: int) -> int:
        """grid_size².

        Raises:
            RecipeError: N is no square, or a smaller one.
        """
        self._side(num_patches)
        return self.grid_size**2

    def options(self) -> dict[str, Any]:
        """grid_size."""
        return {"grid_size": self.grid_size}

    def _side(self, num_patches: int) -> int:
        """Patches along a side."""
        side = grid_side(self, num_patches)
        if side < self.grid_size:
            raise RecipeError(
                f"projector: LDPv2Projector pools to {self.grid_size} x {self.grid_size} tokens, and {num_patches} "
                f"patches are {side} x {side} only.\nSet projector.grid_size to {side} or less."
            )
        return side
