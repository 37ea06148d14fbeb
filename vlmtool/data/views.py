"""From pictures to what an encoder sees of them: one view, tiles, or patches of native resolution.

Each kind knows from a picture's size alone how many tokens it takes, so that prompts are made before it is decoded.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from PIL import Image as PILImage
from transformers import LlavaNextImageProcessorPil
from transformers.image_processing_utils import BaseImageProcessor

from vlmtool.data.pixel_values import PixelValues
from vlmtool.utils.checklist import counted
from vlmtool.utils.pixels import Pixels
from vlmtool.utils.tiling import Grid, best_grid, num_tiled_tokens

Size = tuple[int, int]  # width and height in pixels, as PIL has them


class Views(Protocol):
    """How pictures are shown to the encoder."""

    needs_size: bool
    """The number of tokens depends on the picture."""
    told: str
    """How many tokens pictures take, in a few words."""
    least_side: int | None
    """Pixels that both sides of a JPEG keep, which may be decoded at a half, quarter or eighth; None: decoded whole."""

    def num_tokens(self, size: Size) -> int:
        """Image tokens of a picture."""

    def num_views(self, size: Size) -> int:
        """What the encoder sees of a picture."""

    def __call__(self, pictures: Sequence[PILImage.Image]) -> Pixels:
        """One or more pictures, upright and in RGB."""


class OneView:
    """Each picture whole, scaled and cropped as the encoder's processor does.

    Args:
        tokens: image tokens of a picture.
        pad_to_square: put the picture in the middle of a square of the processor's mean colour, as LLaVA-1.5 does.
        least_side: as of `Views`.
    """

    needs_size = False

    def __init__(
        self, processor: BaseImageProcessor, tokens: int, pad_to_square: bool = False, least_side: int | None = None
    ) -> None:
        self.processor = processor
        self.values = PixelValues(processor)
        self.least_side = least_side
        self.tokens = tokens
        self.pad_to_square = pad_to_square
        self.told = f"{counted(tokens, 'token')} an image"

    def num_tokens(self, size: Size) -> int:
        """The same for each."""
        return self.tokens

    def num_views(self, size: Size) -> int:
        """The picture itself."""
        return 1

    def __call__(self, pictures: Sequence[PILImage.Image]) -> Pixels:
        """(I, 3, H, W)."""
        if self.pad_to_square:
            pictures = [square(picture, background(self.processor)) for picture in pictures]
        return Pixels.one_view_each(self.values(pictures))


class TiledViews:
    """Each picture whole at low resolution, then in tiles of the grid that suits it (AnyRes).

    Args:
        processor: of the encoder; tiles are scaled and normalised as it does.
        side: of a tile, in pixels.
        token_side: rows (and columns) of tokens of one view, after the projector.
        grids: to choose from.

    Source: LLaVA-NeXT, https://llava-vl.github.io/blog/2024-01-30-llava-next/; done by transformers' processor.
    """

    needs_size = True
    least_side: int | None = None

    def __init__(self, processor: BaseImageProcessor, side: int, token_side: int, grids: Sequence[Grid]) -> None:
        self.side = side
        self.token_side = token_side
        self.grids = tuple(grids)
        most = max(num_tiled_tokens(rows, columns, (rows, columns), token_side) for rows, columns in grids)
        self.told = f"up to {counted(most, 'token')} an image, in tiles of {side} px"
        edge = {"height": side, "width": side}
        normalization = {
            name: getattr(processor, name)
            for name in ("image_mean", "image_std", "rescale_factor", "do_rescale", "do_normalize", "resample")
        }
        self.processor = LlavaNextImageProcessorPil(
            size=edge, crop_size=edge, image_grid_pinpoints=[[r * side, c * side] for r, c in grids], do_pad=False,
            **normalization,
        )  # fmt: skip

    def num_tokens(self, size: Size) -> int:
        """By its size."""
        width, height = size
        return num_tiled_tokens(height, width, best_grid(height, width, self.grids, self.side), self.token_side)

    def num_views(self, size: Size) -> int:
        """The whole and its tiles."""
        width, height = size
        rows, columns = best_grid(height, width, self.grids, self.side)
        return 1 + rows * columns

    def __call__(self, pictures: Sequence[PILImage.Image]) -> Pixels:
        """(V, 3, side, side): for each picture the whole, then its tiles row by row."""
        views, layouts = [], []
        for picture in pictures:  # one at a time: its views are not padded to another picture's number of them
            values = self.processor([picture], return_tensors="pt")["pixel_values"][0]
            grid = best_grid(picture.height, picture.width, self.grids, self.side)
            views.append(torch.as_tensor(values))
            layouts.append([*grid, picture.height, picture.width])
        return Pixels(torch.cat(views), torch.tensor(layouts))


class NativeViews:
    """Each picture in its own proportions, as patches: SigLIP 2's NaFlex.

    Args:
        num_tokens: image tokens for so many patches.
        max_patches: of a picture; None takes the processor's.

    Source: SigLIP 2, https://arxiv.org/abs/2502.14786, section 2.4.2.
    """

    needs_size = True
    least_side: int | None = None

    def __init__(
        self, processor: BaseImageProcessor, num_tokens: Callable[[int], int], max_patches: int | None = None
    ) -> None:
        self.processor = processor
        self.max_patches = max_patches or processor.max_num_patches
        self._num_tokens = num_tokens
        self.told = f"an image in up to {self.max_patches:,} patches"

    def num_tokens(self, size: Size) -> int:
        """By the patches that the processor makes of this size."""
        from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

        width, height = size
        patch = self.processor.patch_size
        scaled = get_image_size_for_max_num_patches(height, width, patch, self.max_patches)
        return self._num_tokens((scaled[0] // patch) * (scaled[1] // patch))

    def num_views(self, size: Size) -> int:
        """The picture itself."""
        return 1

    def __call__(self, pictures: Sequence[PILImage.Image]) -> Pixels:
        """(I, P, 3·p·p), cut after the longest row of patches."""
        made = self.processor(list(pictures), max_num_patches=self.max_patches, return_tensors="pt")
        shapes = torch.as_tensor(made["spatial_shapes"])
        sizes = torch.tensor([[picture.height, picture.width] for picture in pictures])
        longest = int(shapes.prod(1).max())
        return Pixels(made["pixel_values"][:, :longest], torch.cat([shapes, sizes], 1))


def preparation(views: Views) -> dict[str, Any]:
    """How pictures are prepared, as plain values."""
    values = {key: value.to_dict() if hasattr(value, "to_dict") else value for key, value in vars(views).items()}
    plain = {key: value for key, value in values.items() if not callable(value)}
    return {"kind": type(views).__name__, **json.loads(json.dumps(plain, default=str))}


def background(processor: BaseImageProcessor) -> tuple[int, ...]:
    """The processor's mean colour, 0 to 255."""
    return tuple(int(mean * 255) for mean in processor.image_mean)


def square(picture: PILImage.Image, colour: tuple[int, ...]) -> PILImage.Image:
    """The picture in the middle of a square with the length of its longer side."""
    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    canvas = PILImage.new("RGB", (side, side), colour)
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas
