"""The folder of a converted data set's pictures: what records call them, and the ones that are written there."""

import hashlib
import re
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vlmtool.data.convert.items import Unusable
from vlmtool.data.formats.llava import is_inside
from vlmtool.data.picture_file import DAMAGED, open_header
from vlmtool.utils.errors import DataError, UsageError, VlmtoolError, message_lines, shortened
from vlmtool.utils.fetch import fetch, is_address
from vlmtool.utils.files import atomic_path

_UNSAFE = re.compile(r"[^\w-]+")
_LONGEST_KEY = 80  # characters; a file name has 255 bytes at most
_HASH = 20  # hex digits of SHA-256 in a name: 80 bits, so no two pictures of a billion share them
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


class PictureFolder:
    """Names pictures as records do: relative to the image folder.

    Args:
        folder: the image folder; None where the sources only name pictures.
        prefix: stands before every name that a source gives, such as `coco/train2017/`.
        fetches: download pictures at http addresses.
        allow_local: also from this machine's network.
    """

    def __init__(
        self, folder: Path | None = None, prefix: str = "", fetches: bool = False, allow_local: bool = False
    ) -> None:
        self.folder = folder
        self.written: set[str] = set()
        self._prefix = prefix
        self._fetches = fetches
        self._allow_local = allow_local

    def name_of(self, path: str) -> str:
        """The name of a picture that a source names: a relative path, one inside the folder, or an address.

        Raises:
            Unusable: it is outside, or cannot be had.
        """
        if path.startswith("data:"):
            return self.add(_of_data_url(path))
        if path.startswith("file://"):
            path = unquote(urlsplit(path).path)
        elif is_address(path):
            return self._fetched(path)
        if not path.startswith("/"):
            name = self._prefix + path
            if not path or not is_inside(name):
                raise Unusable("picture outside", f"'{shortened(path)}' leaves the image folder")
            return name
        if self.folder is not None and ".." not in path.split("/"):
            root = self.folder.absolute()
            if Path(path).is_relative_to(root):
                return Path(path).relative_to(root).as_posix()
        raise Unusable("picture outside", f"'{shortened(path)}' is not below --image-folder")

    def add(self, content: bytes, key: str = "") -> str:
        """Write a picture under its key and the hash of its content, once; the name is returned.

        Raises:
            UsageError: there is no folder for it. DataError: it cannot be written. Unusable: it is no picture.
        """
        if self.folder is None:
            raise UsageError(
                "The pictures stand in the source itself, and there is no place to write them to.\n"
                "Name a folder: --image-folder DIR."
            )
        try:
            with open_header(BytesIO(content)) as picture:
                suffix = _SUFFIXES[picture.format or ""]
        except DAMAGED as error:
            raise Unusable("broken picture", f"{message_lines(error)[0]}") from error
        stem = _UNSAFE.sub("_", key)[:_LONGEST_KEY].strip("_")
        digest = hashlib.sha256(content).hexdigest()[:_HASH]
        name = f"{stem}-{digest}.{suffix}" if stem else f"{digest}.{suffix}"
        path = self.folder / name
        if name not in self.written and not path.is_file():
            try:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(content)
            except OSError as error:
                raise DataError(
                    f"{path}: cannot be written: {error.strerror}.\nMake room, or name another folder."
                ) from error
            self.written.add(name)
        return name

    def _fetched(self, url: str) -> str:
        if not self._fetches:
            raise Unusable("picture at an address", f"{shortened(url)} is not fetched without --fetch")
        try:
            return self.add(fetch(url, self._allow_local))
        except UsageError:
            if self.folder is None:
                raise
            raise Unusable("picture at an address", f"{shortened(url)} is refused") from None
        except VlmtoolError as error:
            raise Unusable("picture at an address", message_lines(error)[0]) from error


def _of_data_url(url: str) -> bytes:
    """The content of `data:image/png;base64,…` (RFC 2397)."""
    import base64
    import binascii

    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise Unusable("broken picture", "a data: URL that is not base64")
    try:
        return base64.b64decode(unquote(body), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unusable("broken picture", f"a data: URL that is not base64: {error}") from error
