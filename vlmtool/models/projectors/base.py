"""What every projector is: a module that knows its widths, its options and how many tokens it makes."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from vlmtool.utils.errors import RecipeError, did_you_mean


class Projector(nn.Module):
    """Base of the projectors; a user's own class follows it and is named in the recipe by `type=`.

    Args:
        vision_hidden_size: D_vision, width of the patch features.
        llm_hidden_size: D_llm, width of the LLM's embeddings.
    """

    needs_square_grid: ClassVar[bool] = False
    """True where the patches are read as a square grid, so that encoders of native resolution are refused."""
    makes_grid: ClassVar[bool] = False
    """True where the tokens stand in rows and columns as the patches do, so that tiles of a picture can be put
    together."""

    row_end: nn.Parameter | None
    """(D_llm,) token after each row of a tiled picture; None where pictures are not tiled."""

    def __init__(self, vision_hidden_size: int, llm_hidden_size: int) -> None:
        super().__init__()
        self.vision_hidden_size = vision_hidden_size
        self.llm_hidden_size = llm_hidden_size
        self.register_parameter("row_end", None)

    def add_row_end(self) -> None:
        """Make the token after each row of a tiled picture, with LLaVA-NeXT's first values N(0, 1 / D_llm)."""
        self.row_end = nn.Parameter(torch.randn(self.llm_hidden_size) / self.llm_hidden_size**0.5)

    def forward(self, patch_features: Tensor) -> Tensor:
        """(I, N, D_vision) → (I, N', D_llm)."""
        raise NotImplementedError

    def num_tokens(self, num_patches: int) -> int:
        """N', image embeddings per image, for N patches.

        Raises:
            RecipeError: the projector cannot read so many patches.
        """
        return num_patches

    def options(self) -> dict[str, Any]:
        """Arguments beyond the two widths, as plain values: what `projector/config.json` needs to build it again."""
        return {}


def grid_side(projector: Projector, num_patches: int) -> int:
    """Patches along a side of the square grid that `num_patches` make.

    Raises:
        RecipeError: they make none.
    """
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise RecipeError(
            f"projector: {type(projector).__name__} reads the patches as a square grid, which {num_patches} are not.\n"
            "If a CLS token is among them, set vision_encoder.select_strategy='patch'; else take another projector."
        )
    return side


def check_counts(projector: Projector, **counts: int) -> None:
    """Refuse options that count or size something and are no whole number from 1 on.

    Raises:
        ValueError: with the first of them.
    """
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{type(projector).__name__}: {name} is {value!r}; it takes a whole number from 1 on.")


def activation(projector: Projector, name: str) -> nn.Module:
    """The activation that transformers calls so.

    Raises:
        ValueError: none.
    """
    if name not in ACT2FN:
        raise ValueError(
            f"{type(projector).__name__}: hidden_act is {name!r}, no activation of transformers."
            f"{did_you_mean(str(name), ACT2FN)}"
        )
    return ACT2FN[name]
