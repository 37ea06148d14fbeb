"""From files of every kind to the pixel values that the encoder's own processor makes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from vlmtool.data.conversation import Image
from vlmtool.data.image_processor import load_image_processor
from vlmtool.data.image_transform import ImageTransform, open_picture, picture_size
from vlmtool.data.views import OneView, square
from vlmtool.utils.errors import CheckpointError, DataError

COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [255, 255, 255], [128, 64, 32]]], np.uint8)


@pytest.fixture
def colours() -> PILImage.Image:
    return PILImage.fromarray(COLOURS)


def test_pixel_values_are_those_of_the_processor(picture, transform, processor):
    paths = [picture("a.png", 20, 10), picture("b.png", 16, 30)]
    expected = processor([PILImage.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]
    assert torch.equal(transform([Image("a.png"), Image("b.png")]).values, expected)
    assert expected.shape == (2, 3, 16, 16)


def test_a_picture_in_memory_is_as_good_as_its_file(picture, transform):
    path = picture("a.png")
    assert torch.equal(transform([Image(PILImage.open(path))]).values, transform([Image("a.png")]).values)


@pytest.mark.parametrize(("width", "height"), [(7, 4), (4, 7), (5, 5), (1, 6)])
def test_padding_puts_the_picture_in_the_middle_of_the_mean_colour(picture, width, height, processor, tmp_path):
    path = picture("a.png", width, height)
    side = max(width, height)
    mean = [int(value * 255) for value in processor.image_mean]
    expected = np.empty((side, side, 3), np.uint8)
    expected[:] = mean
    top, left = (side - height) // 2, (side - width) // 2
    expected[top : top + height, left : left + width] = np.asarray(PILImage.open(path))
    assert np.array_equal(np.asarray(square(open_picture(path), tuple(mean))), expected)

    padded = ImageTransform(OneView(processor, 4, pad_to_square=True), tmp_path / "images")
    pixel_values = processor([PILImage.fromarray(expected)], return_tensors="pt")["pixel_values"]
    assert torch.equal(padded([Image("a.png")]).values, pixel_values)


@pytest.mark.parametrize(
    ("width", "height", "scale"), [(640, 480, 8), (200, 150, 8), (90, 70, 4), (60, 33, 2), (31, 60, 1), (16, 16, 1)]
)
def test_large_jpegs_are_decoded_at_a_part_of_their_size(tmp_path, processor, monkeypatch, width, height, scale):
    """As libjpeg does it: not below 16 pixels a side, and close to the mean of the pixels that become one."""
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    PILImage.fromarray(ramp.astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    reduced = open_picture(tmp_path / "a.jpg", 16)
    whole = open_picture(tmp_path / "a.jpg")
    assert whole.size == (width, height) and reduced.size == (-(-width // scale), -(-height // scale))
    views = [ImageTransform(OneView(processor, 4, least_side=side), tmp_path) for side in (None, 16)]
    values = [transform([Image("a.jpg")]).values for transform in views]
    assert (values[0] - values[1]).abs().mean() < 0.1  # of about 4 from black to white
    assert torch.equal(*values) == (scale == 1)


def test_other_formats_are_decoded_whole(tmp_path, colours):
    colours.resize((640, 480)).save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png", 16).size == (640, 480)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("P", "gif"), ("RGB", "bmp"), ("CMYK", "tif")]
)
def test_every_mode_becomes_rgb(tmp_path, colours, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    (colours.quantize(6) if mode == "P" else colours.convert(mode)).save(path)
    opened = open_picture(path)
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), COLOURS)


def test_the_first_frame_of_a_moving_gif_is_taken(tmp_path, colours):
    path = tmp_path / "a.gif"
    colours.save(path, save_all=True, append_images=[PILImage.new("RGB", (3, 2))])
    assert np.array_equal(np.asarray(open_picture(path)), COLOURS)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    path = tmp_path / f"a.{suffix}"
    PILImage.fromarray(grey).save(path)
    expected = np.repeat(np.array([[0, 0, 1, 128, 255]], np.uint8)[..., None], 3, axis=2)
    assert np.array_equal(np.asarray(open_picture(path)), expected)


def test_pixels_of_unknown_white_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    PILImage.fromarray(np.zeros((2, 2), np.float32)).save(path)
    with pytest.raises(DataError, match="32-bit pixels"):
        open_picture(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(tmp_path, colours, orientation):
    turned = {
        1: COLOURS, 2: COLOURS[:, ::-1], 3: COLOURS[::-1, ::-1], 4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2), 6: np.rot90(COLOURS, -1), 7: COLOURS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(COLOURS),
    }  # fmt: skip
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    colours.save(path, exif=exif)
    assert np.array_equal(np.asarray(open_picture(path)), turned[orientation])


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(DataError, match="b.png: there is no such image"):
        open_picture(tmp_path / "b.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp"])
def test_a_truncated_picture_is_refused(tmp_path, suffix, picture):
    path = picture(f"a.{suffix}", 60, 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match="cannot be read"):
        open_picture(path)


@pytest.mark.parametrize(
    "content", [b"", b"<html><script>x</script></html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
)
def test_what_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (open_picture, picture_size):
        with pytest.raises(DataError, match="cannot be read"):
            read(path)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        open_picture(tmp_path)


def test_the_header_gives_the_size_of_a_picture_that_is_cut(picture):
    path = picture("a.png", 60, 40)
    path.write_bytes(path.read_bytes()[:200])
    assert picture_size(path) == (60, 40)


def test_the_processor_is_loaded_in_its_pil_form(encoder_folder, tmp_path: Path):
    assert type(load_image_processor(encoder_folder)).__name__ == "CLIPImageProcessorPil"
    with pytest.raises(CheckpointError, match="there is no image processor"):
        load_image_processor(tmp_path)


def test_a_damaged_image_processor_is_told_with_its_file(encoder_folder, tmp_path: Path):
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor", ')
    with pytest.raises(CheckpointError, match="(?s)cannot be loaded: .*Mend or replace preprocessor_config.json"):
        load_image_processor(tmp_path)
