"""From a picture to pixel values, as the encoder's own image processor makes them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from PIL import ImageFile, ImageOps
from torch import Tensor
from transformers import AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor

from vlmtool.data.conversation import Image
from vlmtool.data.picture_file import DAMAGED, TooLarge, check_size, open_header
from vlmtool.utils.errors import CheckpointError, DataError, message_lines, shortened
from vlmtool.utils.remote_code import needs_remote_code

MAX_INPUT = 4096  # pixels on a side of what an encoder gets: ten times what the largest take
ImageFile.LOAD_TRUNCATED_IMAGES = False  # a cut JPEG is an error, not a grey picture
LONGEST_NAME = 300  # characters of a path in a message: whole folders, so that it can be copied


class MissingImage(DataError):
    """There is no such file."""


class UnusableImage(DataError):
    """A file that is no picture, broken, too large or of an unknown white.

    Args:
        reason: what is wrong, without the name of the file.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class ImageTransform:
    """Decode, turn upright, pad if asked, and preprocess.

    Args:
        processor: of the encoder.
        num_tokens: image tokens that an image takes in the prompt, the same for every image here.
        pad_to_square: put the picture in the middle of a square of the processor's mean colour, as LLaVA-1.5 does.
        image_folder: where relative paths are looked up.
    """

    def __init__(
        self,
        processor: BaseImageProcessor,
        num_tokens: int,
        pad_to_square: bool = False,
        image_folder: str | Path = ".",
    ) -> None:
        self.processor = processor
        self.tokens_per_image = num_tokens
        self.pad_to_square = pad_to_square
        self.image_folder = Path(image_folder)

    def num_tokens(self, image: Image) -> int:
        """Image tokens of `image` in the prompt; nothing is opened."""
        return self.tokens_per_image

    def __call__(self, images: Sequence[Image]) -> Tensor:
        """Pixel values (I, 3, H, W) of one or more images."""
        pictures = [self.open(image) for image in images]
        if self.pad_to_square:
            pictures = [square(picture, self.background()) for picture in pictures]
        return self.processor(pictures, return_tensors="pt")["pixel_values"]

    def open(self, image: Image) -> PILImage.Image:
        """The picture, upright and in RGB. Links in the image folder are followed; addresses are not.

        Raises:
            DataError: it is missing, broken or too large.
        """
        if isinstance(image.source, PILImage.Image):
            try:
                check_size(image.source.size)
                return to_rgb(image.source)
            except DAMAGED as error:
                raise DataError(f"The picture cannot be used: {message_lines(error)[0]}.") from error
        if "://" in image.source:
            raise DataError(f"{image.source}: addresses are not fetched.\nDownload the image and give its path.")
        return open_picture(self.image_folder / image.source)

    def background(self) -> tuple[int, ...]:
        """The processor's mean colour, 0 to 255."""
        return tuple(int(mean * 255) for mean in self.processor.image_mean)


def open_picture(path: Path) -> PILImage.Image:
    """A picture file, upright and in RGB.

    Raises:
        DataError: it is missing, broken or too large.
    """
    with _readable(path, str(path)) as picture:
        return to_rgb(ImageOps.exif_transpose(picture))


def read_picture(content: bytes, name: str) -> PILImage.Image:
    """The same of a picture file that was read already; `name` is what errors call it.

    Raises:
        DataError: it is broken or too large.
    """
    with _readable(BytesIO(content), name) as picture:
        return to_rgb(ImageOps.exif_transpose(picture))


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height as the file's header gives them, before it is turned upright; nothing is decoded.

    Raises:
        DataError: it is missing or too large, has 32-bit pixels, or its header is broken.
    """
    with _readable(path, str(path)) as picture:
        _check_mode(picture)
        return picture.size


def check_picture(path: Path, deep: bool = False) -> None:
    """See that a picture can be used: by its header, or `deep` by decoding it whole.

    Raises:
        MissingImage: there is no such file. UnusableImage: it is broken or too large.
    """
    if deep:
        open_picture(path)
    else:
        picture_size(path)


@contextmanager
def _readable(file: Path | BytesIO, name: str) -> Iterator[PILImage.Image]:
    """The opened file; what goes wrong while it is open is about the file."""
    try:
        with open_header(file) as picture:
            yield picture
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = "Check the path; those of records are relative to data.image_folder."
        raise MissingImage(f"{shortened(name, LONGEST_NAME)}: there is no such image.\n{remedy}") from error
    except DAMAGED as error:
        reason, remedy = _reason(error), "Scale it down" if isinstance(error, TooLarge) else "Replace the file"
        what = f"{shortened(name, LONGEST_NAME)}: the image cannot be read: {reason}"
        raise UnusableImage(f"{what}\n{remedy}, or leave it out.", reason) from error


def _reason(error: BaseException) -> str:
    """What was wrong; a system's error without its number and the path, which is named anyway."""
    return error.strerror if isinstance(error, OSError) and error.strerror else message_lines(error)[0]


def to_rgb(picture: PILImage.Image) -> PILImage.Image:
    """The picture in RGB, 8 bits a channel. Transparency is dropped, as LLaVA does.

    Raises:
        ValueError: its white is unknown (32-bit pixels).
    """
    _check_mode(picture)
    if picture.mode.startswith("I;16"):  # convert() would clip at 255: nearly every pixel white
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return PILImage.fromarray(grey).convert("RGB")
    return picture.convert("RGB")


def _check_mode(picture: PILImage.Image) -> None:
    if picture.mode in ("I", "F"):
        raise ValueError("it has 32-bit pixels, whose white is unknown: save it with 8 or 16 bits")


def square(picture: PILImage.Image, background: tuple[int, ...]) -> PILImage.Image:
    """The picture in the middle of a square with the length of its longer side."""
    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    canvas = PILImage.new("RGB", (side, side), background)
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


def load_image_processor(path: Path) -> BaseImageProcessor:
    """The image processor of an encoder's folder, in its PIL form; code that the folder brings is never run.

    Raises:
        CheckpointError: there is none, it is code of the folder's own, or it makes pictures of any size.
    """
    processor = _read_processor(path)
    for name in ("size", "crop_size"):
        given = getattr(processor, name, None) or {}
        for key in ("height", "width", "shortest_edge"):
            if (given.get(key) or 0) > MAX_INPUT:
                raise CheckpointError(
                    f"{path}: its image processor makes pictures of {given.get(key):,} pixels, {MAX_INPUT:,} are the "
                    f"limit.\nCorrect {name} in preprocessor_config.json."
                )
    return processor


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
        reason = message_lines(error)[0]
        raise CheckpointError(
            f"{path}: its image processor cannot be loaded: {reason}\nIs preprocessor_config.json there?"
        ) from error
