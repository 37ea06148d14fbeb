"""A picture at an address that the user typed. Addresses in records are never fetched."""

from PIL import Image as PILImage

from vlmtool.data.image_transform import read_picture
from vlmtool.utils.fetch import fetch


def fetch_picture(url: str, allow_local: bool = False) -> PILImage.Image:
    """The picture, upright and in RGB.

    Raises:
        UsageError: an address that is not asked (`utils.fetch`).
        DataError: there is no answer in time, or it is no picture or too large.
    """
    return read_picture(fetch(url, allow_local), url)
