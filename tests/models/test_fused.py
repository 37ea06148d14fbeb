"""Two encoders side by side, held to each alone with its own image processor."""

import pytest
import torch
from transformers import (
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.models.conftest import siglip
from tests.models.test_resolution import SMALL, _copy, picture
from vlmtool.models.encoders.fused import FusedEncoder, put_beside
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.utils.errors import UsageError
from vlmtool.utils.pixels import Pixels

COLOURS = [([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]


def dinov2(patch_size: int = 16) -> Dinov2Model:
    torch.manual_seed(5)
    return Dinov2Model(Dinov2Config(**{**SMALL, "hidden_size": 32}, image_size=48, patch_size=patch_size)).eval()


def test_each_sees_the_picture_in_its_own_colours():
    one, two = siglip(), dinov2()
    fused = FusedEncoder(VisionEncoder(_copy(one)), VisionEncoder(_copy(two), Reading(-1, image_size=32)), COLOURS)
    assert (fused.hidden_size, fused.num_patches, fused.image_size) == (96, 4, 32)
    side = {"height": 32, "width": 32}
    pictures = [picture(32, 32, seed) for seed in range(2)]
    first = SiglipImageProcessorPil(size=side)(pictures, return_tensors="pt")["pixel_values"]
    second = BitImageProcessorPil(size=side, crop_size=side, image_mean=COLOURS[1][0], image_std=COLOURS[1][1])(
        pictures, return_tensors="pt"
    )["pixel_values"]
    with torch.no_grad():
        (features,) = fused(Pixels.one_view_each(first))
        alone = one(first, output_hidden_states=True).hidden_states[-2]
        beside = two(second, output_hidden_states=True).hidden_states[-1][:, 1:]
    torch.testing.assert_close(features[..., :64], alone)
    torch.testing.assert_close(features[..., 64:], beside, atol=1e-5, rtol=1e-5)


def test_encoders_with_other_numbers_of_patches_are_refused():
    with pytest.raises(UsageError, match="4 patches, the one beside it 16 patches"):
        FusedEncoder(VisionEncoder(siglip()), VisionEncoder(dinov2(8), Reading(image_size=32)), COLOURS)


def test_the_shipped_pair_makes_as_many_patches_of_384_px():
    """SigLIP-so400m/14 and DINOv2-large/14, which is made for 518 px: 27 × 27 patches."""
    siglip_config = SiglipVisionConfig(**{**SMALL, "num_hidden_layers": 1}, image_size=384, patch_size=14)
    dinov2_config = Dinov2Config(**{**SMALL, "num_hidden_layers": 1}, image_size=518, patch_size=14)
    first = VisionEncoder(SiglipVisionModel(siglip_config), Reading(-1, beside=Reading(-1)))
    fused = put_beside(first, Dinov2Model(dinov2_config), COLOURS)
    assert fused.num_patches == (384 // 14) ** 2 == 729
    with torch.no_grad():
        (features,) = fused(Pixels.one_view_each(torch.rand(1, 3, 384, 384)))
    assert features.shape == (1, 729, 128)
