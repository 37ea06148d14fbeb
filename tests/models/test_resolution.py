"""Encoders at other sizes, in tiles and in a picture's own proportions, held to Hugging Face's own classes."""

import random

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from transformers import (
    AutoImageProcessor,
    CLIPImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    Siglip2ImageProcessorPil,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)

from tests.models.conftest import IMAGE_TOKEN, clip, llama, siglip
from vlmtool.chat.transform import make_transform
from vlmtool.data.conversation import Image
from vlmtool.data.image_processor import load_image_processor
from vlmtool.data.views import NativeViews, TiledViews
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.projectors.base import Projector
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.utils.errors import RecipeError, UsageError
from vlmtool.utils.pixels import Pixels

GRIDS = ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))
SIDE = 32  # of what the tiny CLIP sees: 2 × 2 patches
SIZES = [(32, 32), (40, 30), (30, 40), (100, 20), (20, 100), (64, 33), (33, 64), (7, 5), (500, 499), (96, 32), (31, 97)]
SMALL = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4)


def picture(width: int, height: int, seed: int = 0) -> PILImage.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PILImage.fromarray(pixels)


@pytest.fixture
def processor_folder(tmp_path):
    side = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=side).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def llava_next(encoder: VisionEncoder, projector: Projector) -> LlavaNextForConditionalGeneration:
    """transformers' class with the same weights."""
    config = LlavaNextConfig(
        vision_config=encoder.model.config,
        text_config=LlamaConfig(vocab_size=160, hidden_size=64, intermediate_size=128, num_hidden_layers=1),
        image_grid_pinpoints=[[rows * SIDE, columns * SIDE] for rows, columns in GRIDS],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaNextForConditionalGeneration(config).eval()
    model.model.vision_tower.load_state_dict(clip().state_dict())
    model.model.multi_modal_projector.linear_1.load_state_dict(projector.model[0].state_dict())
    model.model.multi_modal_projector.linear_2.load_state_dict(projector.model[2].state_dict())
    with torch.no_grad():
        model.model.image_newline.copy_(projector.row_end)
    return model


def tiled_model() -> VisionLanguageModel:
    torch.manual_seed(3)
    projector = MLPProjector(64, 64)
    projector.add_row_end()
    return VisionLanguageModel(VisionEncoder(clip(), Reading(tiles=GRIDS)), projector, llama(), IMAGE_TOKEN).eval()


def test_tiles_give_llava_nexts_tokens(processor_folder):
    model = tiled_model()
    theirs = llava_next(model.vision_encoder, model.projector)
    transform = make_transform(model.vision_encoder, model.projector, processor_folder)
    pictures = [picture(width, height, seed) for seed, (width, height) in enumerate(SIZES)]
    with torch.no_grad():
        ours = model.encode_images(transform([Image(p) for p in pictures]))
        inputs = transform.views.processor(pictures, do_pad=True, return_tensors="pt")
        expected = theirs.get_image_features(
            inputs["pixel_values"], torch.as_tensor(inputs["image_sizes"])
        ).pooler_output
    assert len(ours) == len(expected) == len(SIZES)
    for own, reference, size in zip(ours, expected, SIZES, strict=True):
        torch.testing.assert_close(own, reference, atol=1e-5, rtol=0, msg=lambda text, size=size: f"{size}: {text}")
        assert transform.num_tokens(Image(picture(*size))) == len(own)


def test_the_count_of_tiled_tokens_is_llava_nexts(processor_folder):
    transform = make_transform(tiled_model().vision_encoder, tiled_model().projector, processor_folder)
    draw = random.Random(1)
    for _ in range(200):
        width, height = draw.randint(1, 900), draw.randint(1, 900)
        count = transform.views.num_tokens((width, height))
        expected = LlavaNextProcessor._get_number_of_features(
            _Stub(transform.views.processor.image_grid_pinpoints), height, width, SIDE, SIDE
        )
        assert count == expected, (width, height)


class _Stub:
    """What transformers' count reads of its processor: 2 × 2 tokens a view."""

    patch_size = 16
    num_additional_image_tokens = 0
    _get_unpadded_features = LlavaNextProcessor._get_unpadded_features

    def __init__(self, grids: list[list[int]]) -> None:
        self.image_processor = type("P", (), {"image_grid_pinpoints": grids})


def test_another_image_size_interpolates_positions():
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for whole in (clip(), siglip()):
        with torch.no_grad():
            states = whole(pixels, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
        encoder = VisionEncoder(whole, Reading(image_size=64))
        assert (encoder.image_size, encoder.num_patches) == (64, 16)
        with torch.no_grad():
            (features,) = encoder(Pixels.one_view_each(pixels))
        torch.testing.assert_close(features, states[-2][:, -16:])


@pytest.mark.parametrize("side", [28, 42])
def test_dinov2_drops_all_that_is_no_patch(side):
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    patches = (side // 14) ** 2
    for cls, config, before in (
        (Dinov2Model, Dinov2Config(**SMALL, image_size=28, patch_size=14), 1),
        (Dinov2WithRegistersModel, Dinov2WithRegistersConfig(**SMALL, image_size=28, patch_size=14), 5),
    ):
        torch.manual_seed(1)
        whole = cls(config).eval()
        with torch.no_grad():
            states = whole(pixels, output_hidden_states=True).hidden_states
        for strategy, dropped in (("auto", before), ("patch", 1), ("full", 0)):
            encoder = VisionEncoder(_copy(whole), Reading(select_strategy=strategy, image_size=side))
            with torch.no_grad():
                (features,) = encoder(Pixels.one_view_each(pixels))
            torch.testing.assert_close(features, states[-2][:, dropped:])
            assert encoder.num_patches == features.shape[1] == patches + before - dropped


def _copy(model):
    twin = type(model)(model.config).eval()
    twin.load_state_dict(model.state_dict())
    return twin


def naflex() -> Siglip2VisionModel:
    torch.manual_seed(1)
    return Siglip2VisionModel(Siglip2VisionConfig(**SMALL, patch_size=16, num_patches=16)).eval()


def test_native_resolution_is_siglip2s(tmp_path):
    whole = naflex()
    Siglip2ImageProcessorPil(patch_size=16, max_num_patches=32).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    encoder = VisionEncoder(_copy(whole), Reading(max_patches=24))
    projector = MLPProjector(64, 64)
    model = VisionLanguageModel(encoder, projector, llama(), IMAGE_TOKEN).eval()
    transform = make_transform(encoder, projector, tmp_path)
    assert isinstance(transform.views, NativeViews) and encoder.num_patches is None
    pictures = [picture(width, height, seed) for seed, (width, height) in enumerate(SIZES)]
    with torch.no_grad():
        pixels = transform([Image(p) for p in pictures])
        ours = model.encode_images(pixels)
        for own, one in zip(ours, pictures, strict=True):
            inputs = processor([one], max_num_patches=24, return_tensors="pt")
            states = whole(**inputs, output_hidden_states=True).hidden_states[-2]
            reference = projector(states[0][inputs["pixel_attention_mask"][0].bool()])
            torch.testing.assert_close(own, reference, atol=1e-5, rtol=0)
            assert transform.num_tokens(Image(one)) == len(own) <= 24
        alone = model.encode_images(transform([Image(pictures[3])]))[0]
    torch.testing.assert_close(alone, ours[3], atol=1e-5, rtol=0)  # padding of the others does not show


def test_joined_rows_of_patches_are_padded_to_the_longest(tmp_path):
    Siglip2ImageProcessorPil(patch_size=16, max_num_patches=32).save_pretrained(tmp_path)
    views = NativeViews(load_image_processor(tmp_path), lambda patches: patches)
    one, two = views([picture(300, 20)]), views([picture(64, 64)])
    both = Pixels.joined([one, two])
    assert len(both) == 2 and both.values.shape[:2] == (2, max(one.values.shape[1], two.values.shape[1]))
    torch.testing.assert_close(both.layouts, views([picture(300, 20), picture(64, 64)]).layouts)


def test_a_turned_photo_counts_as_it_is_shown(tmp_path, processor_folder):
    exif = PILImage.Exif()
    exif[0x0112] = 6
    picture(90, 30).save(tmp_path / "turned.jpg", exif=exif)
    model = tiled_model()
    transform = make_transform(model.vision_encoder, model.projector, processor_folder, image_folder=tmp_path)
    with torch.no_grad():
        (embeds,) = model.encode_images(transform([Image("turned.jpg")]))
    assert transform.size(Image("turned.jpg")) == (30, 90)
    assert transform.num_tokens(Image("turned.jpg")) == len(embeds)


class Pooled(Projector):
    """Keeps no rows and columns."""

    def forward(self, patch_features):
        return patch_features.mean(1, keepdim=True)

    def num_tokens(self, num_patches):
        return 1


def test_what_does_not_go_together_is_refused(processor_folder, tmp_path):
    tiled, mlp = VisionEncoder(clip(), Reading(tiles=GRIDS)), MLPProjector(64, 64)
    assert isinstance(make_transform(tiled, mlp, processor_folder).views, TiledViews)
    with pytest.raises(RecipeError, match="Pooled does not keep rows and columns"):
        make_transform(tiled, Pooled(64, 64), processor_folder)
    with pytest.raises(RecipeError, match="pad_to_square=False"):
        make_transform(tiled, mlp, processor_folder, pad_to_square=True)
    native = VisionEncoder(naflex())
    Siglip2ImageProcessorPil(patch_size=16, max_num_patches=32).save_pretrained(tmp_path)
    square = type("Square", (MLPProjector,), {"needs_square_grid": True})
    with pytest.raises(RecipeError, match="needs patches in a square"):
        make_transform(native, square(64, 64), tmp_path)
    for reading, said in (
        (Reading(tiles=GRIDS), "tiles"), (Reading(image_size=64), "image_size"),
        (Reading(select_strategy="patch"), "select_strategy"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            VisionEncoder(naflex(), reading)
    with pytest.raises(UsageError, match="max_patches"):
        VisionEncoder(clip(), Reading(max_patches=9))
