"""Pictures whose levels are looked up have the values that the processor itself gives."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, SiglipImageProcessorPil, ViTImageProcessorPil

from vlmtool.data.pixel_values import PixelValues

EDGE = {"height": 24, "width": 24}
CROPPED = {"size": {"shortest_edge": 28}, "crop_size": EDGE}
PROCESSORS = {
    "clip": CLIPImageProcessorPil(**CROPPED),
    "siglip": SiglipImageProcessorPil(size=EDGE),
    "vit": ViTImageProcessorPil(size=EDGE),
    "dinov2": BitImageProcessorPil(**CROPPED),
    "not rescaled": CLIPImageProcessorPil(**CROPPED, do_rescale=False),
    "not normalised": SiglipImageProcessorPil(size=EDGE, do_normalize=False),
    "another scale": SiglipImageProcessorPil(size=EDGE, rescale_factor=1 / 127.5, image_mean=[1, 0.9, 0.8]),
}


class ByRow(SiglipImageProcessorPil):
    """What it makes of a level differs from row to row."""

    def normalize(self, image, mean, std, **options):
        made = super().normalize(image, mean, std, **options)
        return made * np.arange(made.shape[1], dtype=made.dtype)[:, None]


def pictures():
    noise = np.random.default_rng(1)
    return [
        Image.fromarray(noise.integers(0, 256, (*sides, 3), dtype=np.uint8)) for sides in ((30, 50), (24, 24), (71, 33))
    ]


@pytest.mark.parametrize("name", PROCESSORS)
def test_looked_up_values_are_the_processors(name, monkeypatch):
    processor = PROCESSORS[name]
    expected = processor(pictures(), return_tensors="pt")["pixel_values"]
    values = PixelValues(processor)
    for step in ("rescale", "normalize"):
        monkeypatch.setattr(processor, step, None)  # nothing is computed again
    found = values(pictures())
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_a_processor_that_does_more_is_left_to_itself():
    processor = ByRow(size=EDGE)
    expected = processor(pictures(), return_tensors="pt")["pixel_values"]
    assert torch.equal(PixelValues(processor)(pictures()), expected)
