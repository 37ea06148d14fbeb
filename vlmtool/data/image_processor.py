"""The image processor of an encoder."""

from pathlib import Path

from transformers import AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import SizeDict

from vlmtool.utils.errors import CheckpointError, message_lines
from vlmtool.utils.remote_code import needs_remote_code

_FILES = ("preprocessor_config.json", "processor_config.json")
MAX_INPUT = 4096  # pixels on a side of what an encoder gets: ten times what the largest take


def load_image_processor(path: Path, image_size: int | None = None) -> BaseImageProcessor:
    """The image processor of an encoder's folder, in its PIL form; code that the folder brings is never run.

    Args:
        image_size: side in pixels of what it is to make; None leaves it as it is.

    Raises:
        CheckpointError: there is none, it is code of the folder's own, or it makes pictures of any size.
    """
    processor = _read_processor(path)
    if image_size is not None:
        set_side(processor, image_size)
    for name in ("size", "crop_size"):
        given = getattr(processor, name, None) or {}
        for key in ("height", "width", "shortest_edge"):
            if (given.get(key) or 0) > MAX_INPUT:
                raise CheckpointError(
                    f"{path}: its image processor makes pictures of {given.get(key):,} pixels, {MAX_INPUT:,} are the "
                    f"limit.\nCorrect {name} in preprocessor_config.json."
                )
    return processor


def set_side(processor: BaseImageProcessor, side: int) -> None:
    """Let a processor make squares of this side, in pixels, scaling and cropping as it does."""
    edge = {"height": side, "width": side}
    by_shortest = "shortest_edge" in (processor.size or {})
    processor.size = SizeDict(**({"shortest_edge": _before_crop(processor, side)} if by_shortest else edge))
    if getattr(processor, "crop_size", None):
        processor.crop_size = SizeDict(**edge)


def _before_crop(processor: BaseImageProcessor, side: int) -> int:
    """Shorter side before the crop, in the processor's own proportion: DINOv2 scales to 256 and crops 224."""
    crop = getattr(processor, "crop_size", None)
    return round(processor.size["shortest_edge"] * side / crop["height"]) if crop and crop.get("height") else side


def _read_processor(path: Path) -> BaseImageProcessor:
    try:
        # False, not None: with None transformers asks at the terminal, and runs the code on "y".
        return AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if needs_remote_code(error):
            raise CheckpointError(
                f"{path}: its image processor needs code of its own, which vlmtool does not run.\n"
                "Use an encoder with an image processor of transformers."
            ) from error
        if not any((path / name).is_file() for name in _FILES):
            raise CheckpointError(
                f"{path}: there is no image processor ({_FILES[0]}).\nIs this the folder of an image encoder?"
            ) from error
        reason = message_lines(error)[0]
        raise CheckpointError(
            f"{path}: its image processor cannot be loaded: {reason}\nMend or replace {_FILES[0]}."
        ) from error
