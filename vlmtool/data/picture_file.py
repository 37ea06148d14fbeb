"""Opening a picture file that may come from anywhere: known formats only, its size known before it is decoded."""

import re
import stat
import struct
import warnings
from io import BytesIO
from pathlib import Path

from PIL import Image as PILImage
from PIL import UnidentifiedImageError

# Formats of pixels alone. Pillow knows more: EPS runs Ghostscript, and the rare ones have rarely tested decoders.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

MAX_PIXELS = 120_000_000  # 360 MB in RGB; phones take pictures of 108 million
MAX_SIDE = 16_384  # pixels: LLaVA pads to a square, which must fit into memory too (805 MB)
MAX_RATIO = 200  # of the sides: an encoder's processor scales the shorter one up to 336 pixels, and the longer with it

# What Pillow raises on a damaged file: what it says it does, and what its reader of EXIF lets through.
DAMAGED = (
    OSError, ValueError, SyntaxError, EOFError, PILImage.DecompressionBombError,
    TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, struct.error,
)  # fmt: skip


class TooLarge(ValueError):
    """More pixels than can be decoded, padded and scaled; the message is half a sentence."""


def open_header(file: Path | BytesIO) -> PILImage.Image:
    """The opened file, of which only the header was read.

    Raises:
        OSError: it is missing, or not a file. TooLarge: it is. ValueError, SyntaxError: none of `FORMATS`, or broken.
            The message is half a sentence.
    """
    if isinstance(file, Path) and not stat.S_ISREG(mode := file.stat().st_mode):  # opening a pipe would wait for ever
        raise OSError("it is a folder" if stat.S_ISDIR(mode) else "it is not a file")
    try:
        with warnings.catch_warnings():  # Pillow warns from 89 million pixels on, and refuses 179 million by itself
            warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
            picture = PILImage.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(_what_it_is(file)) from error
    except PILImage.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise TooLarge(f"it has {int(pixels[0]) if pixels else 0:,} pixels, {MAX_PIXELS:,} are the limit") from error
    try:
        check_size(picture.size)
    except TooLarge:
        picture.close()
        raise
    return picture


def check_size(size: tuple[int, int]) -> None:
    """See that a picture of this width and height can be decoded, padded and scaled.

    Raises:
        TooLarge: it cannot.
    """
    width, height = size
    has = f"it has {width:,} × {height:,} pixels"
    if width * height > MAX_PIXELS:
        raise TooLarge(f"{has}, {MAX_PIXELS:,} in all are the limit")
    if max(size) > MAX_SIDE:
        raise TooLarge(f"{has}, {MAX_SIDE:,} on a side are the limit")
    if max(size) > MAX_RATIO * min(size):
        raise TooLarge(f"{has}, one side is more than {MAX_RATIO} times the other")


def _what_it_is(file: Path | BytesIO) -> str:
    """What stands in a file that is no picture; people save drawings and error pages under a picture's name."""
    if isinstance(file, Path):
        with open(file, "rb") as handle:
            head = handle.read(1024)
    else:
        head = file.getvalue()[:1024]
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    known = f"one of {', '.join(FORMATS)} is needed"
    if not start:
        return f"it is empty; {known}"
    if start.startswith(b"<"):
        if b"<svg" in start:
            return f"it is an SVG drawing; {known}"
        if b"<html" in start or start.startswith(b"<!doctype html"):
            return f"it is an HTML page; {known}"
    return f"it is no picture; {known}"
