"""From a picture file to what the encoder gets of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from PIL import ImageFile, ImageOps

from vlmtool.data.conversation import Image
from vlmtool.data.picture_file import DAMAGED, TooLarge, check_size, open_header
from vlmtool.data.views import Size, Views
from vlmtool.utils.errors import DataError, message_lines, shortened
from vlmtool.utils.pixels import Pixels

ImageFile.LOAD_TRUNCATED_IMAGES = False  # a cut JPEG is an error, not a grey picture
ORIENTATION = 0x0112  # EXIF's tag
LYING = (5, 6, 7, 8)  # its values for pictures that are turned by 90° or 270° to be upright
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
    """Decode, turn upright, and show to the encoder.

    Args:
        views: how; it knows how many tokens a picture takes.
        image_folder: where relative paths are looked up.
    """

    def __init__(self, views: Views, image_folder: str | Path = ".") -> None:
        self.views = views
        self.image_folder = Path(image_folder)

    def num_tokens(self, image: Image) -> int:
        """Image tokens of `image` in the prompt. At most its header is read.

        Raises:
            DataError: its size decides, and it is missing, broken or too large.
        """
        return self.views.num_tokens(self.size(image) if self.views.needs_size else (0, 0))

    def __call__(self, images: Sequence[Image]) -> Pixels:
        """What the encoder gets of one or more images."""
        return self.views([self.open(image) for image in images])

    def size(self, image: Image) -> Size:
        """Width and height of the picture once it is upright.

        Raises:
            DataError: it is missing, broken or too large.
        """
        if isinstance(image.source, PILImage.Image):
            return image.source.size
        return upright_size(self.image_folder / image.source)

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
        return open_picture(self.image_folder / image.source, self.views.least_side)


def open_picture(path: Path, least_side: int | None = None) -> PILImage.Image:
    """A picture file, upright and in RGB.

    Args:
        least_side: pixels that both sides keep at least where a JPEG is decoded at a half, quarter or eighth of its
            size; None: every picture is decoded whole.

    Raises:
        DataError: it is missing, broken or too large.
    """
    with _readable(path, str(path)) as picture:
        return _decoded(picture, least_side)


def read_picture(content: bytes, name: str, least_side: int | None = None) -> PILImage.Image:
    """The same of a picture file that was read already; `name` is what errors call it.

    Raises:
        DataError: it is broken or too large.
    """
    with _readable(BytesIO(content), name) as picture:
        return _decoded(picture, least_side)


def _decoded(picture: PILImage.Image, least_side: int | None) -> PILImage.Image:
    if least_side is not None:
        picture.draft(None, (least_side, least_side))  # other formats than JPEG take no notice
    return to_rgb(ImageOps.exif_transpose(picture))


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height as the file's header gives them, before it is turned upright; nothing is decoded.

    Raises:
        DataError: it is missing or too large, has 32-bit pixels, or its header is broken.
    """
    with _readable(path, str(path)) as picture:
        _check_mode(picture)
        return picture.size


def upright_size(path: Path) -> Size:
    """Width and height as they are once the picture is upright; only its header is read.

    Raises:
        DataError: it is missing or too large, has 32-bit pixels, or its header is broken.
    """
    with _readable(path, str(path)) as picture:
        _check_mode(picture)
        width, height = picture.size
        return (height, width) if picture.getexif().get(ORIENTATION) in LYING else (width, height)


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
