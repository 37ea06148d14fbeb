"""Files that somebody might send: each tries to leave a mark, or to take all memory."""

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch


class Runs:
    """Pickled, it asks for os.system, which would make the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


class Calls:
    """Pickled, it asks for `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def repeated_tensor() -> torch.Tensor:
    """A million million numbers, of which one is stored."""
    return torch.zeros(1).expand(10**6, 10**6)


def as_checkpoint(path: Path, extra: Any) -> Path:
    """A `.pth` of torch.save that is fine but for `extra`."""
    torch.save({"meta": {"format": 1}, "state_dict": OrderedDict(w=torch.ones(2)), "extra": extra}, path)
    return path


def compressed(path: Path) -> Path:
    """The same `.pth` with deflated entries: zeros shrink to a thousandth."""
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return path


def with_pickle(path: Path, content: bytes) -> Path:
    """A file in the form of torch.save around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in (("data.pkl", content), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(f"archive/{name}", value)
    return path


def stack_global(module: str, name: str) -> bytes:
    """A protocol-4 pickle that asks for a name with STACK_GLOBAL."""
    return b"\x80\x04" + pickle.dumps(module, 4)[2:-1] + pickle.dumps(name, 4)[2:-1] + b"\x93."


def png(width: int, height: int, rows: int = 0) -> bytes:
    """A PNG whose header says so much; `rows` white rows of it are there."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # one bit a pixel
    pixels = zlib.compress((b"\0" + b"\xff" * ((width + 7) // 8)) * rows, 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, (b"IHDR", b"IDAT", b"IEND"), (header, pixels, b"")))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def jpeg(width: int, height: int) -> bytes:
    """A progressive JPEG up to the end of its header."""
    frame = b"\x08" + struct.pack(">HH", height, width) + b"\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00"
    return (
        b"\xff\xd8\xff\xc2"
        + struct.pack(">H", len(frame) + 2)
        + frame
        + b"\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x00\x00"
    )


def gif(width: int, height: int) -> bytes:
    """A GIF with one empty frame."""
    screen = struct.pack("<HH", width, height) + b"\x00\x00\x00"
    return b"GIF89a" + screen + b"\x2c" + struct.pack("<HHHH", 0, 0, width, height) + b"\x00\x02\x01\x00\x00\x3b"


def bmp(width: int, height: int) -> bytes:
    """A BMP without pixels."""
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def tiff(width: int, height: int) -> bytes:
    """A TIFF, uncompressed and grey, without pixels."""
    tags = ((256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 1))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
