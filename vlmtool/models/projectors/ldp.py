"""An MLP and two convolution blocks, the second with stride 2: the first MobileVLM's projector."""

from torch import Tensor, nn

from vlmtool.models.projectors.base import Projector, grid_side


class LDPProjector(Projector):
    """Linear, GELU, Linear; then two inverted residuals of MobileNetV3 on the grid, the second at half its side.

    The published weights (`model.mm_projector.model.…`) are named `mlp.1`, `mlp.3` for `mlp.0`, `mlp.2` here, and
    within `mb_block.1`, `mb_block.2` (`blocks.0`, `blocks.1`) `block.0.0`, `block.0.1`, `block.1.fc1`, `block.1.fc2`,
    `block.2.0`, `block.2.1` for `depthwise`, `depthwise_norm`, `excitation.fc1`, `excitation.fc2`, `pointwise`,
    `pointwise_norm`.

    Source: MobileVLM, https://arxiv.org/abs/2312.16886.
    """

    needs_square_grid = True
    makes_grid = True

    def __init__(self, vision_hidden_size: int, llm_hidden_size: int) -> None:
        super().__init__(vision_hidden_size, llm_hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(vision_hidden_size, llm_hidden_size), nn.GELU(), nn.Linear(llm_hidden_size, llm_hidden_size)
        )
        self.blocks = nn.Sequential(InvertedResidual(llm_hidden_size, 1), InvertedResidual(llm_hidden_size, 2))

    def forward(self, patch_features: Tensor) -> Tensor:
        """(I, N, D_vision) → (I, N', D_llm)."""
        side = grid_side(self, patch_features.shape[1])
        grid = self.mlp(patch_features).transpose(1, 2).unflatten(2, (side, side))  # (I, D_llm, side, side)
        return self.blocks(grid).flatten(2).transpose(1, 2)

    def num_tokens(self, num_patches: int) -> int:
        """The square of half the grid's side, rounded up.

        Raises:
            RecipeError: N is no square.
        """
        return ((grid_side(self, num_patches) + 1) // 2) ** 2


class InvertedResidual(nn.Module):
    """Depthwise 3 x 3, squeeze and excitation, pointwise, on (I, D, height, width), without expansion.

    Source: MobileNetV3, https://arxiv.org/abs/1905.02244; norms over the channels as in MobileVLM.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False)
        self.depthwise_norm = ChannelNorm(width)
        self.excitation = SqueezeExcitation(width)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.pointwise_norm = ChannelNorm(width)

    def forward(self, grid: Tensor) -> Tensor:
        """The input is added where the stride leaves it its size."""
        hidden = nn.functional.hardswish(self.depthwise_norm(self.depthwise(grid)))
        hidden = self.pointwise_norm(self.pointwise(self.excitation(hidden)))
        return grid + hidden if self.stride == 1 else hidden


class SqueezeExcitation(nn.Module):
    """Channels weighted by what their means say. Source: https://arxiv.org/abs/1709.01507, as in MobileNetV3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        squeezed = max(8, (width // 4 + 4) // 8 * 8)  # MobileNetV3 keeps widths at multiples of 8
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, width, 1)

    def forward(self, grid: Tensor) -> Tensor:
        """(I, D, height, width), weighted."""
        squeezed = nn.functional.relu(self.fc1(grid.mean((2, 3), keepdim=True)))
        return grid * nn.functional.hardsigmoid(self.fc2(squeezed))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over D of (I, D, height, width)."""

    def forward(self, grid: Tensor) -> Tensor:
        """The same shape."""
        return super().forward(grid.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
