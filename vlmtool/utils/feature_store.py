"""Features of a frozen encoder on disk, by the content of the picture: read through a memory map, written as they come.

A folder holds pairs of files, one for each process that ever wrote there: `NAME.features` with the numbers one picture
after another, and `NAME.index` with a record of fixed length for each. The numbers are written before their record, so
that what a kill leaves is a picture that is not there. A record whose numbers do not match its checksum is not read;
where its picture comes again, it is struck out, and a new one written.
"""

import os
import socket
import time
import zlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

RECORD = np.dtype(
    [("key", "V32"), ("offset", "<u8"), ("shape", "<u4", 3), ("layout", "<i4", 4), ("checksum", "<u4")]
)  # shape: views, tokens, width
STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
STRUCK_OUT = bytes(32)  # in place of a key
LARGEST_INT8 = 127
LOOK_AGAIN = 1.0  # seconds, at least, before the files of other processes are looked at again


@dataclass(frozen=True)
class Features:
    """What the encoder makes of a picture: (V, N, D) for its V views, and its layout (`Pixels.layouts`)."""

    values: Tensor
    layout: Tensor


def content_key(content: bytes) -> bytes:
    """By which a picture is found again, whatever its name."""
    return sha256(content).digest()


class FeatureStore:
    """Features in a folder.

    Args:
        folder: of one encoder, one way of preparing pictures and one `dtype`; made where it is not there.
        dtype: a name of `STORED`; int8 has a scale for each token, its largest number.
    """

    def __init__(self, folder: Path, dtype: str) -> None:
        self.folder, self.dtype = folder, dtype
        folder.mkdir(parents=True, exist_ok=True)
        self._files: list[Path] = []  # of features
        self._known: list[int] = []  # records of each
        self._places: dict[int, tuple[int, int]] = {}  # by the first bytes of a key: file, record
        self._maps: dict[Path, np.memmap[Any, Any]] = {}
        self._looked, self._took = -LOOK_AGAIN, 0.0
        self._writer: tuple[int, Any, Any] | None = None  # which process, its features, its index
        self._look()

    def __len__(self) -> int:
        """Pictures."""
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        """Whether the features of a picture are there, as far as is known."""
        return _short(key) in self._places

    def get(self, key: bytes) -> Features | None:
        """The features of a picture; None where they are not there, or damaged."""
        if key not in self:
            self._look()
        place = self._places.get(_short(key))
        record = self._record(*place) if place is not None else None
        if place is None or record is None or record["key"].tobytes() != key:
            return None
        shape: tuple[int, ...] = tuple(map(int, record["shape"]))
        content = self._read(self._files[place[0]], int(record["offset"]), self._size(*shape))
        if content is None or zlib.crc32(content) != int(record["checksum"]):
            return None
        return Features(_decode(content, shape, self.dtype), torch.from_numpy(record["layout"].astype(np.int64)))

    def put(self, key: bytes, features: Features) -> None:
        """Keep the features of a picture, unless they are there.

        Raises:
            OSError: they cannot be written.
        """
        if self.get(key) is not None:
            return
        self._strike_out(key)
        content = _encode(features.values, self.dtype)
        numbers, index = self._own_files()
        offset = numbers.tell()
        numbers.write(content)
        numbers.flush()
        record = np.zeros(1, RECORD)
        record["key"], record["offset"], record["checksum"] = np.void(key), offset, zlib.crc32(content)
        record["shape"], record["layout"] = features.values.shape, features.layout.numpy()
        index.write(record.tobytes())
        index.flush()
        self._read_index(Path(index.name))

    def rounded(self, values: Tensor) -> Tensor:
        """The numbers as they come back, so that it does not matter whether they were there."""
        if STORED[self.dtype] == values.dtype:
            return values
        return _decode(_encode(values, self.dtype), tuple(values.shape), self.dtype).to(values.device)

    def bytes_each(self, views: int, tokens: int, width: int) -> int:
        """Of a picture on disk, its record among them."""
        return self._size(views, tokens, width) + RECORD.itemsize

    def _size(self, *shape: int) -> int:
        views, tokens, width = shape
        scales = 4 * views * tokens if self.dtype == "int8" else 0
        return views * tokens * width * STORED[self.dtype].itemsize + scales

    def _look(self) -> None:
        """Learn what this and other processes wrote since."""
        now = time.monotonic()
        if now - self._looked < max(LOOK_AGAIN, 20 * self._took):
            return
        for index in sorted(self.folder.glob("*.index")):
            self._read_index(index)
        self._looked = time.monotonic()
        self._took = self._looked - now

    def _read_index(self, index: Path) -> None:
        file = index.with_suffix(".features")
        if file not in self._files:
            self._files.append(file)
            self._known.append(0)
        number = self._files.index(file)
        known = self._known[number]
        whole = index.stat().st_size // RECORD.itemsize - known
        added = np.fromfile(index, RECORD, max(whole, 0), offset=known * RECORD.itemsize)
        for place, key in enumerate(added["key"], known):
            if (name := key.tobytes()) != STRUCK_OUT:
                self._places.setdefault(_short(name), (number, place))
        self._known[number] += len(added)

    def _record(self, number: int, place: int) -> Any:
        index = self._files[number].with_suffix(".index")
        if not index.is_file():
            return None
        found = np.fromfile(index, RECORD, 1, offset=place * RECORD.itemsize)
        return found[0] if len(found) else None

    def _strike_out(self, key: bytes) -> None:
        """Forget a damaged picture, here and on disk; its record keeps its length, so that those behind it stay."""
        place = self._places.pop(_short(key), None)
        record = self._record(*place) if place is not None else None
        if place is not None and record is not None and record["key"].tobytes() == key:
            with open(self._files[place[0]].with_suffix(".index"), "r+b") as index:
                index.seek(place[1] * RECORD.itemsize)
                index.write(STRUCK_OUT)

    def _read(self, file: Path, offset: int, size: int) -> bytes | None:
        mapped = self._maps.get(file)
        if mapped is None or len(mapped) < offset + size:
            if not file.is_file() or file.stat().st_size < offset + size:
                return None
            mapped = self._maps[file] = np.memmap(file, np.uint8, "r")
        return mapped[offset : offset + size].tobytes()

    def _own_files(self) -> tuple[Any, Any]:
        """Those of this process: a forked one writes files of its own."""
        if self._writer is None or self._writer[0] != os.getpid():
            name = f"{socket.gethostname()}-{uuid4().hex[:12]}"
            numbers, index = ((self.folder / f"{name}.{kind}").open("ab") for kind in ("features", "index"))
            self._writer = (os.getpid(), numbers, index)
        return self._writer[1], self._writer[2]


def _short(key: bytes) -> int:
    """Enough of a key to find it in memory; the whole one is compared on disk."""
    return int.from_bytes(key[:8], "little")


def _encode(values: Tensor, dtype: str) -> bytes:
    values = values.detach().cpu()
    if dtype != "int8":
        return values.to(STORED[dtype]).contiguous().view(torch.uint8).numpy().tobytes()
    scales = values.float().abs().amax(-1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST_INT8  # (V, N)
    numbers = (values.float() / scales[..., None]).round().to(torch.int8)
    return scales.numpy().tobytes() + numbers.numpy().tobytes()


def _decode(content: bytes, shape: tuple[int, ...], dtype: str) -> Tensor:
    if dtype != "int8":
        return torch.frombuffer(bytearray(content), dtype=STORED[dtype]).view(shape)
    views, tokens = shape[:2]
    buffer = bytearray(content)
    scales = torch.frombuffer(buffer, dtype=torch.float32, count=views * tokens).view(views, tokens)
    numbers = torch.frombuffer(buffer, dtype=torch.int8, offset=4 * views * tokens).view(shape)
    return numbers.float() * scales[..., None]
