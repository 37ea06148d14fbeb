"""Two image encoders side by side: each patch is seen by both, and their features stand beside one another."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import NATIVE, VisionEncoder, encoder_class
from vlmtool.utils.errors import UsageError
from vlmtool.utils.pixels import Pixels

# Of an image processor: mean and standard deviation, three values each.
Colour = tuple[Sequence[float], Sequence[float]]


class FusedEncoder(nn.Module):
    """Patch features (V, N, D_first + D_second) of two encoders that see the same views.

    Pictures are prepared as the first one's image processor does; the second gets them with its own normalisation.

    Args:
        first: decides on size, tiles and tokens.
        second: reads views of the first one's size and makes as many patches of them.
        colours: of each encoder's image processor.

    Raises:
        UsageError: the two do not make the same number of patches.

    Source: Prismatic VLMs, https://arxiv.org/abs/2402.07865, section 4.2 (SigLIP and DINOv2).
    """

    def __init__(self, first: VisionEncoder, second: VisionEncoder, colours: tuple[Colour, Colour]) -> None:
        super().__init__()
        if first.num_patches is None or first.num_patches != second.num_patches:
            raise UsageError(
                f"vision_encoder.beside: the first encoder makes {_told(first)}, the one beside it {_told(second)}.\n"
                "Set vision_encoder.image_size so that both make as many, or take another encoder."
            )
        self.first = first
        self.second = second
        (mean, std), (other_mean, other_std) = (
            [torch.tensor(values).view(3, 1, 1) for values in colour] for colour in colours
        )
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", std / other_std, persistent=False)
        self.register_buffer("shift", (mean - other_mean) / other_std, persistent=False)

    @property
    def encoders(self) -> tuple[VisionEncoder, ...]:
        """Both."""
        return self.first, self.second

    @property
    def model(self) -> PreTrainedModel:
        """The first encoder's; the second is never trained."""
        return self.first.model

    @property
    def reading(self) -> Reading:
        """How the first is read, and what that says of the second."""
        return self.first.reading

    @property
    def num_blocks(self) -> int:
        """Blocks of the first that are kept."""
        return self.first.num_blocks

    @property
    def hidden_size(self) -> int:
        """D_vision, of both together."""
        return self.first.hidden_size + self.second.hidden_size

    @property
    def image_size(self) -> int | None:
        """Side in pixels of what both see."""
        return self.first.image_size

    @property
    def num_patches(self) -> int | None:
        """N."""
        return self.first.num_patches

    def forward(self, pixels: Pixels) -> list[Tensor]:
        """One tensor (V, N, D_vision)."""
        (own,) = self.first(pixels)
        recoloured = Pixels(pixels.values * self.scale + self.shift, pixels.layouts)
        (other,) = self.second(recoloured)
        return [torch.cat([own, other.to(own.dtype)], -1)]


ImageEncoder = VisionEncoder | FusedEncoder


def beside_reading(first: VisionEncoder) -> Reading:
    """How the encoder beside `first` is read."""
    return first.reading.beside or Reading()


def put_beside(first: VisionEncoder, model: PreTrainedModel, colours: tuple[Colour, Colour]) -> FusedEncoder:
    """`first` and `model`, which is read as `first.reading.beside` says and sees pictures of the first one's size.

    Raises:
        UsageError: the two do not make the same number of patches.
    """
    size = None if model.config.model_type == NATIVE else first.image_size
    reading = replace(beside_reading(first), image_size=size)
    second = encoder_class(reading.type, "vision_encoder.beside.type")(model, reading)
    return FusedEncoder(first, second, colours)


def _told(encoder: VisionEncoder) -> str:
    return "patches of a number that differs" if encoder.num_patches is None else f"{encoder.num_patches} patches"
