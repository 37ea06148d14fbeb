"""Pictures that stand as base64 text in a table cell."""

import base64
import binascii
import io

from PIL import Image as PILImage
from PIL import ImageOps

from vlmtool.data.image_transform import to_rgb
from vlmtool.data.picture_file import DAMAGED, open_header
from vlmtool.utils.errors import message_lines


class PictureError(ValueError):
    """Not a picture; the message is half a sentence that the caller completes with the place."""


def picture_bytes(cell: str) -> bytes:
    """The picture file inside a base64 cell.

    Raises:
        PictureError: not base64.
    """
    try:
        return base64.b64decode("".join(cell.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"not base64 ({error})") from error


def open_picture(data: bytes) -> PILImage.Image:
    """Open a picture file without decoding it: its size is known, its pixels are read when needed.

    Raises:
        PictureError: no picture of a known format, or one that is too large.
    """
    try:
        return open_header(io.BytesIO(data))
    except DAMAGED as error:
        raise PictureError(f"not a usable picture ({message_lines(error)[0]})") from error


def decode_picture(picture: PILImage.Image) -> PILImage.Image:
    """The pixels that training sees: upright, in RGB, whatever the file holds (palette, CMYK, 16 bits of grey …).

    Raises:
        PictureError: the file is cut or damaged, or has 32-bit pixels, whose white is unknown.
    """
    try:
        return to_rgb(ImageOps.exif_transpose(picture))
    except DAMAGED as error:
        raise PictureError(f"not a usable picture ({message_lines(error)[0]})") from error
