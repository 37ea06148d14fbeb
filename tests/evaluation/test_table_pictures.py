"""Pictures in the cells of a table: references to other rows, broken ones, and the pixels that the model gets."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from vlmtool.data.image_transform import open_picture as training_picture
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.files.pictures import decode_picture
from vlmtool.utils.errors import DataError

BASE64_OF_TEXT = base64.b64encode(b"this is no picture, but it is longer than any reference to another row").decode()


def as_base64(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def test_picture_references_are_followed_any_number_of_times(write_table, question):
    base, rotation = question
    path = write_table(base, rotation, {"index": "2", "image": "1000000"})
    benchmark = MMBench(path)
    assert [benchmark.prompt(sample)[0].images[0].source.size for sample in benchmark.samples()] == [(8, 6)] * 3


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("1", "0", "refers in a circle: 0 → 1 → 0"),
        ("0", "0", "refers in a circle: 0 → 0"),
        ("5", "0", "refers to index 5, which the file does not have"),
    ],
)
def test_bad_references(write_table, first, second, message):
    with pytest.raises(DataError, match=message):
        MMBench(write_table({"index": "0", "image": first}, {"index": "1", "image": second}))


def test_circle_that_does_not_lead_back_to_its_start(write_table):
    rows = [{"index": "0", "image": "1"}, {"index": "1", "image": "2"}, {"index": "2", "image": "1"}]
    with pytest.raises(DataError, match="refers in a circle: 0 → 1 → 2 → 1"):
        MMBench(write_table(*rows))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("", "column 'image' of index 0: empty"),
        ("%%%", "not base64"),
        ("abcde", "not base64"),
        (BASE64_OF_TEXT, "not a usable picture"),
        (as_base64(Image.effect_noise((64, 64), 50), "PNG")[:2000], "not a usable picture"),
        (as_base64(Image.new("F", (5, 4)), "TIFF"), "32-bit pixels, whose white is unknown"),
    ],
)
def test_bad_pictures_are_found_before_the_model_runs(write_table, cell, message):
    path = write_table({"image": cell})
    with pytest.raises(DataError, match=rf"table.tsv:2: .*{message}"):
        MMBench(path)
    assert MMBench(path, Options(needs_pictures=False)).score({0: "A"}).scores["circular"]["Overall"] == 1


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("L", "JPEG"), ("1", "PNG"), ("I;16", "PNG")],
)
def test_every_kind_of_picture_becomes_rgb(write_table, mode, kind):
    benchmark = MMBench(write_table({"image": as_base64(Image.new(mode, (5, 4)), kind)}))
    source = decode_picture(benchmark.prompt(benchmark.samples()[0])[0].images[0].source)
    assert (source.mode, source.size) == ("RGB", (5, 4))


def as_asked(write_table, cell: str) -> np.ndarray:
    """The pixels that the model gets of a picture in the table."""
    benchmark = MMBench(write_table({"image": cell}))
    return np.asarray(decode_picture(benchmark.prompt(benchmark.samples()[0])[0].images[0].source))


def test_sixteen_bits_are_scaled_not_clipped(write_table, tmp_path):
    grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    pixels = as_asked(write_table, as_base64(Image.fromarray(grey), "PNG"))
    assert np.array_equal(pixels, np.repeat((grey // 256)[..., None], 3, axis=2))
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(pixels, np.asarray(training_picture(tmp_path / "a.png")))


def test_a_picture_is_turned_as_its_exif_says_and_as_in_training(write_table, tmp_path):
    shown = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to see it upright
    Image.fromarray(shown).save(tmp_path / "a.png", exif=exif)
    pixels = as_asked(write_table, base64.b64encode((tmp_path / "a.png").read_bytes()).decode())
    assert np.array_equal(pixels, np.rot90(shown, -1))
    assert np.array_equal(pixels, np.asarray(training_picture(tmp_path / "a.png")))
