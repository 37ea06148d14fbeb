"""What every projector is: a module that knows its widths, its options and how many tokens it makes."""

from typing import Any

from torch import Tensor, nn


class Projector(nn.Module):
    """Base of the projectors; a user's own class follows it and is named in the recipe by `type=`.

    Args:
        vision_hidden_size: D_vision, width of the patch features.
        llm_hidden_size: D_llm, width of the LLM's embeddings.
    """

    def __init__(self, vision_hidden_size: int, llm_hidden_size: int) -> None:
        super().__init__()
        self.vision_hidden_size = vision_hidden_size
        self.llm_hidden_size = llm_hidden_size

    def forward(self, patch_features: Tensor) -> Tensor:
        """(I, N, D_vision) → (I, N', D_llm)."""
        raise NotImplementedError

    def num_tokens(self, num_patches: int) -> int:
        """N', image embeddings per image, for N patches."""
        return num_patches

    def options(self) -> dict[str, Any]:
        """Arguments beyond the two widths, as plain values: what `projector/config.json` needs to build it again."""
        return {}
