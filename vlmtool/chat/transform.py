"""How a model sees pictures: the views that its encoder and projector together can take."""

from pathlib import Path

from vlmtool.data.image_processor import load_image_processor
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.views import NativeViews, OneView, TiledViews, Views
from vlmtool.models.encoders.fused import Colour, ImageEncoder
from vlmtool.models.projectors.base import Projector
from vlmtool.utils.errors import CheckpointError, RecipeError


def make_transform(
    encoder: ImageEncoder,
    projector: Projector,
    processor: Path,
    pad_to_square: bool = False,
    image_folder: str | Path = ".",
    reduce_jpeg: bool = False,
) -> ImageTransform:
    """From picture files to what the encoder gets.

    Args:
        encoder, projector: may be on the meta device: nothing is computed.
        processor: folder with the encoder's image processor.
        pad_to_square: as LLaVA-1.5 does; of no use where pictures keep their proportions.
        image_folder: where relative paths are looked up.
        reduce_jpeg: decode JPEGs that are much larger than what the encoder sees at a part of their size.

    Raises:
        CheckpointError: the image processor cannot be used.
        RecipeError: the projector cannot take what the encoder gives, or padding or reducing was asked for in vain.
    """
    return ImageTransform(_views(encoder, projector, processor, pad_to_square, reduce_jpeg), image_folder)


def _views(
    encoder: ImageEncoder, projector: Projector, processor: Path, pad_to_square: bool, reduce_jpeg: bool
) -> Views:
    loaded = load_image_processor(processor, encoder.image_size)
    name, tiles = type(projector).__name__, encoder.reading.tiles
    if pad_to_square and (encoder.num_patches is None or tiles):
        key = "vision_encoder.tiles" if tiles else "this encoder"
        raise RecipeError(
            f"data.pad_to_square = True: {key} shows pictures in their own proportions.\nSet data.pad_to_square=False."
        )
    if reduce_jpeg and (encoder.num_patches is None or tiles):
        raise RecipeError(
            "data.reduce_jpeg = True: here the size of a picture decides how it is shown.\nSet data.reduce_jpeg=False."
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
        return OneView(loaded, tokens, pad_to_square, encoder.image_size if reduce_jpeg else None)
    side = round(tokens**0.5)
    if not projector.makes_grid or side * side != tokens:
        raise RecipeError(
            f"vision_encoder.tiles: {name} does not keep rows and columns, so tiles cannot be put together.\n"
            "Take a projector that does (MLPProjector, LDPv2Projector, PixelShuffleProjector), or drop the key."
        )
    return TiledViews(loaded, encoder.image_size or 0, side, tiles)


def colours_of(first: Path, second: Path) -> tuple[Colour, Colour]:
    """What the image processors in two folders do to colours, for a pair of encoders that see the same views.

    Raises:
        CheckpointError: one of them cannot be used, or they count in other units.
    """
    processors = [load_image_processor(folder) for folder in (first, second)]
    units = [float(p.rescale_factor) if p.do_rescale else 1.0 for p in processors]
    if units[0] != units[1]:
        raise CheckpointError(
            f"{second}: its image processor multiplies pixels by {units[1]:g}, that of '{first}' by {units[0]:g}.\n"
            "Two encoders side by side need the same rescale_factor in preprocessor_config.json."
        )
    one, other = ((p.image_mean, p.image_std) if p.do_normalize else ((0.0,) * 3, (1.0,) * 3) for p in processors)
    return one, other
