"""Picture files that are too large, of another kind, or not where they say."""

import io
import os
import resource
import struct
import warnings
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from tests.safety import evil
from vlmtool.data.conversation import Image
from vlmtool.data.formats.llava import parse_record
from vlmtool.data.image_processor import load_image_processor
from vlmtool.data.image_transform import (
    ImageTransform,
    check_picture,
    open_picture,
    picture_size,
    read_picture,
)
from vlmtool.data.picture_file import FORMATS, MAX_PIXELS, MAX_RATIO, MAX_SIDE, check_size
from vlmtool.data.views import OneView
from vlmtool.evaluation.files.pictures import PictureError, decode_picture
from vlmtool.evaluation.files.pictures import open_picture as open_cell
from vlmtool.utils.errors import DataError

READERS = (open_picture, picture_size, lambda path: read_picture(path.read_bytes(), str(path)))
SVG = b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>x()</script></svg>"
HTML = b"\xef\xbb\xbf<!DOCTYPE html>\n<title>404</title>"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
PDF = b"%PDF-1.4\n1 0 obj <<>> endobj\ntrailer <<>>\n%%EOF"


@pytest.fixture(scope="module")
def transform(standins) -> ImageTransform:
    return ImageTransform(OneView(load_image_processor(standins.clip), 4), standins.images)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "size"),
    [
        (evil.png(50_000, 50_000), "2,500,000,000 pixels"),
        (evil.png(50_000, 50_000, rows=3), "2,500,000,000 pixels"),
        (evil.png(12_000, 10_001), "12,000 × 10,001 pixels"),
        (evil.jpeg(65_500, 65_500), "4,290,250,000 pixels"),
        (evil.gif(65_535, 65_535), "4,294,836,225 pixels"),
        (evil.bmp(40_000, 40_000), "1,600,000,000 pixels"),
        (evil.tiff(2**31 - 1, 2**31 - 1), "4,611,686,014,132,420,609 pixels"),
        (evil.tiff(11_000, 11_000), "11,000 × 11,000 pixels"),
    ],
)
def test_a_bomb_is_refused_by_its_header(tmp_path, read, content, size):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert len(content) < 30_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own warning would stand beside the error
        with pytest.raises(DataError, match=f"a.png: .*{size}.*{MAX_PIXELS:,}"):
            read(path)
        with pytest.raises(PictureError, match=size):
            open_cell(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


@pytest.mark.parametrize(
    ("size", "reason"),
    [((MAX_SIDE + 1, 100), f"{MAX_SIDE:,} on a side"), ((1, MAX_RATIO + 1), f"more than {MAX_RATIO} times")],
)
def test_what_padding_or_scaling_would_blow_up_is_refused(tmp_path, transform, size, reason):
    path = tmp_path / "a.png"
    path.write_bytes(evil.png(*size))
    for read in READERS:
        with pytest.raises(DataError, match=reason):
            read(path)
    with pytest.raises(DataError, match=reason):  # of a picture in memory too
        transform.open(Image(PILImage.new("1", size)))


def test_what_is_within_the_limits_is_read(tmp_path):
    for size in ((MAX_SIDE, MAX_SIDE // MAX_RATIO + 1), (1, MAX_RATIO), (1, 1), (12_000, 9_000)):
        check_size(size)
    path = tmp_path / "a.png"
    path.write_bytes(evil.png(4_000, 40, rows=40))
    assert np.asarray(open_picture(path)).min() == 255


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (SVG, "it is an SVG drawing"), (HTML, "it is an HTML page"), (b"", "it is empty"), (EPS, "it is no picture"),
        (PDF, "it is no picture"), (b"#!/bin/sh\ntouch mark\n", "it is no picture"),
    ],
)  # fmt: skip
def test_what_is_no_picture_says_what_it_is(tmp_path, read, content, kind):
    for name in ("a.jpg", "a.eps", "a.pdf"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{kind}; one of {', '.join(FORMATS)} is needed") as caught:
            read(tmp_path / name)
        assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA", "ICO", "PCX", "JPEG2000", "PDF"])
def test_formats_beside_the_known_ones_are_not_opened(tmp_path, kind):
    picture, path = PILImage.new("RGB", (8, 8)), tmp_path / "a.jpg"
    picture.save(path, kind)
    with pytest.raises(DataError, match="it is no picture"):
        open_picture(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_known_ones_are(tmp_path, kind):
    PILImage.new("RGB", (8, 8), "white").save(tmp_path / "a", kind)
    assert open_picture(tmp_path / "a").size == (8, 8)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for read in (open_picture, picture_size):
        with pytest.raises(DataError, match="it is not a file"):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["../a.jpg", "a/../../b.jpg", "/etc/passwd", "//etc/passwd", ".."])
def test_records_name_no_picture_outside_the_folder(name):
    with pytest.raises(DataError, match="absolute or leaves the image folder"):
        parse_record(record(name), "data.json: record 1", "1")


@pytest.mark.parametrize(
    "name", [".", "folder", "a\0.jpg", "C:\\a.jpg", "\\..\\a.jpg", "http://127.0.0.1/a.jpg", "~/a.jpg"]
)
def test_odd_names_open_nothing(tmp_path, name, transform):
    """Whether the record is refused or the picture is not found: it is told, and nothing outside is read."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.jpg").write_bytes((transform.image_folder / "000_0.jpg").read_bytes())
    inside = ImageTransform(transform.views, tmp_path / "folder" / "..")
    for source in (name, f"./{name}"):
        with pytest.raises(DataError):
            images = parse_record(record(source), "data.json: record 1", "1").images
            inside(images)


def test_an_address_in_a_record_is_told_apart(transform):
    with pytest.raises(DataError, match="addresses are not fetched"):
        transform.open(Image("https://example.com/a.jpg"))


def test_links_in_the_folder_are_followed(tmp_path, transform):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").symlink_to(transform.image_folder / "000_0.jpg")
    inside = ImageTransform(transform.views, tmp_path / "images")
    assert inside(parse_record(record("a.jpg"), "", "1").images).values.shape == (1, 3, 32, 32)


def record(image: str) -> dict:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}]
    return {"id": "1", "image": image, "conversations": turns}


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_raise_nothing_else(kind):
    """Bytes changed at random: a picture, or an error that names the file."""
    for content in damaged(saved(kind), 300, 60):
        read_or_refuse(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_raises_nothing_else(kind):
    """Pillow's reader of EXIF is more easily surprised than its decoders: one file in some hundred."""
    exif = PILImage.Exif()
    exif.update({0x0112: 6, 0x010E: "hello", 0x8769: {0x9003: "2020:01:01"}, 0x011A: 1.5})
    content = saved(kind, exif=exif.tobytes())
    start = content.index(b"MM\0*") if b"MM\0*" in content else content.index(b"II*\0")
    end = start + len(exif.tobytes().removeprefix(b"Exif\0\0"))
    for changed in damaged(content[start:end], 2000, end - start):
        whole = content[:start] + changed + content[end:]
        read_or_refuse(with_checksums(whole) if kind == "PNG" else whole)


@pytest.mark.parametrize(
    "error", [struct.error("x"), TypeError(), KeyError(1), AttributeError("x"), ZeroDivisionError()]
)
def test_whatever_pillow_raises_is_about_the_file(tmp_path, monkeypatch, error):
    def raises(picture):
        raise error

    (tmp_path / "a.png").write_bytes(saved("PNG"))
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", raises)
    for read in (
        open_picture,
        partial(check_picture, deep=True),
        lambda path: read_picture(path.read_bytes(), str(path)),
    ):
        with pytest.raises(DataError, match=r"a\.png: the image cannot be read: \w+") as caught:
            read(tmp_path / "a.png")
        assert len(str(caught.value).splitlines()) == 2


def saved(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    PILImage.fromarray(noise).save(buffer, kind, **options)
    return buffer.getvalue()


def damaged(content: bytes, times: int, start: int) -> Iterator[bytes]:
    """Four bytes changed each time, half of the times among the first `start`."""
    draw = np.random.default_rng(1)
    for _ in range(times):
        changed = bytearray(content)
        for place in draw.integers(0, len(changed) if draw.random() < 0.5 else start, 4):
            changed[place] = draw.integers(0, 256)
        yield bytes(changed)


def with_checksums(png: bytes) -> bytes:
    """The chunks of a PNG with the checksums that belong to their contents."""
    made, at = png[:8], 8
    while at < len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        made += png[at:end] + zlib.crc32(png[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return made


def read_or_refuse(content: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_picture(content, "a")
        except DataError as error:
            assert str(error).startswith("a: the image cannot be read")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "remedy"),
    [(evil.png(MAX_SIDE + 1, 100), "Scale it down, or leave it out."), (b"x", "Replace the file, or leave it out.")],
)
def test_the_remedy_fits_a_chat_too(tmp_path, read, content, remedy):
    """There are no records there to drop."""
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.png")
    assert str(caught.value).splitlines()[1:] == [remedy]


def test_a_long_name_is_cut():
    for read in (open_picture, picture_size):
        with pytest.raises(DataError, match="cannot be read: File name too long") as caught:
            read(Path("x" * 5000))
        assert len(str(caught.value)) < 450


@pytest.mark.parametrize("error", [struct.error("x"), KeyError(1), ZeroDivisionError(), RuntimeError()])
def test_whatever_pillow_raises_is_about_the_cell(monkeypatch, error):
    def raises(*arguments, **options):
        raise error

    picture = open_cell(saved("PNG"))
    monkeypatch.setattr(picture, "load", raises)
    with pytest.raises(PictureError, match=r"not a usable picture \(.+\)"):
        decode_picture(picture)
    monkeypatch.setattr(PILImage, "open", raises)
    with pytest.raises(PictureError, match=r"not a usable picture \(.+\)"):
        open_cell(saved("PNG"))


@pytest.mark.parametrize(("content", "kind"), [(SVG, "SVG"), (HTML, "HTML"), (b"", "empty")])
def test_a_cell_of_a_table_is_read_as_carefully(content, kind):
    with pytest.raises(PictureError, match=f"not a usable picture .*{kind}"):
        open_cell(content)
