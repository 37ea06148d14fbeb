"""How a model sees pictures: the views that its encoder and projector together can take."""

from pathlib import Path

from vlmtool.data.image_processor import load_image_processor
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.views import NativeViews, OneView, TiledViews, Views
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.projectors.base import Projector
from vlmtool.utils.errors import RecipeError


def make_transform(
    encoder: VisionEncoder,
    projector: Projector,
    processor: Path,
    pad_to_square: bool = False,
    image_folder: str | Path = ".",
) -> ImageTransform:
    """From picture files to what the encoder gets.

    Args:
        encoder, projector: may be on the meta device: nothing is computed.
        processor: folder with the encoder's image processor.
        pad_to_square: as LLaVA-1.5 does; of no use where pictures keep their proportions.
        image_folder: where relative paths are looked up.

    Raises:
        CheckpointError: the image processor cannot be used.
        RecipeError: the projector cannot take what the encoder gives, or padding was asked for in vain.
    """
    return ImageTransform(_views(encoder, projector, processor, pad_to_square), image_folder)


def _views(encoder: VisionEncoder, projector: Projector, processor: Path, pad_to_square: bool) -> Views:
    loaded = load_image_processor(processor, encoder.image_size)
    name, tiles = type(projector).__name__, encoder.reading.tiles
    if pad_to_square and (encoder.num_patches is None or tiles):
        key = "vision_encoder.tiles" if tiles else "this encoder"
        raise RecipeError(
            f"data.pad_to_square = True: {key} shows pictures in their own proportions.\nSet data.pad_to_square=False."
        )
    if encoder.num_patches is None:
        if projector.needs_square_grid:
            raise RecipeError(
                f"{name} needs patches in a square, but this encoder takes pictures in their own proportions.\n"
                "Take another projector (MLPProjector, PerceiverResampler) or an encoder of one size."
            )
        return NativeViews(loaded, projector.num_tokens, encoder.reading.max_patches)
    tokens = projector.num_tokens(encoder.num_patches)
    if not tiles:
        return OneView(loaded, tokens, pad_to_square)
    side = round(tokens**0.5)
    if not projector.makes_grid or side * side != tokens:
        raise RecipeError(
            f"vision_encoder.tiles: {name} does not keep rows and columns, so tiles cannot be put together.\n"
            "Take a projector that does (MLPProjector, LDPv2Projector, PixelShuffleProjector), or drop the key."
        )
    return TiledViews(loaded, encoder.image_size or 0, side, tiles)
