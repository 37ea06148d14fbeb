"""Memory estimated from published shapes: against published counts, transformers' models and the built parts."""

from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import vlmtool.demo
from vlmtool.engine.planned import planned_encoder, planned_llm, planned_projector
from vlmtool.engine.resources import memory_need
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.recipe.load import load_recipe
from vlmtool.recipe.memory import PROJECTORS, estimated_gb
from vlmtool.recipe.published import ENCODERS, LLMS, EncoderShape, LLMShape

ASSETS = Path(vlmtool.demo.__file__).parent / "assets"
# Weights, as the hub shows them (the sum over the safetensors files).
PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "Qwen/Qwen-7B-Chat": 7_721_324_544,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "internlm/internlm2-chat-1_8b": 1_889_110_016,
    "internlm/internlm2-chat-20b": 19_861_149_696,
    "internlm/internlm2-chat-7b": 7_737_708_544,
    "lmsys/vicuna-13b-v1.5": 13_015_864_320,
    "lmsys/vicuna-7b-v1.5": 6_738_415_616,
    "meta-llama/Meta-Llama-3-70B-Instruct": 70_553_706_496,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
}
CLIP = 0.2909  # 1e9 weights up to the layer that is read
ENCODER_CLASSES = {
    "facebook/dinov2-large": (Dinov2Model, Dinov2Config, dict(image_size=518, patch_size=14)),
    "openai/clip-vit-large-patch14-336": (CLIPVisionModel, CLIPVisionConfig, dict(image_size=336, patch_size=14)),
    "openai/clip-vit-large-patch14": (CLIPVisionModel, CLIPVisionConfig, dict(image_size=224, patch_size=14)),
    "google/siglip-base-patch16-224": (SiglipVisionModel, SiglipVisionConfig, dict(image_size=224, patch_size=16)),
    "google/siglip-so400m-patch14-384": (SiglipVisionModel, SiglipVisionConfig, dict(image_size=384, patch_size=14)),
    "google/siglip2-so400m-patch14-384": (SiglipVisionModel, SiglipVisionConfig, dict(image_size=384, patch_size=14)),
    "google/siglip2-so400m-patch16-naflex": (Siglip2VisionModel, Siglip2VisionConfig, dict(patch_size=16)),
}


def weights(shape: LLMShape | EncoderShape) -> int:
    return shape.layers * sum(a * b for a, b in shape.layer.values()) + shape.other_weights


@pytest.mark.parametrize("path", PUBLISHED)
def test_shapes_give_the_published_number_of_weights(path):
    assert weights(LLMS[path]) == pytest.approx(PUBLISHED[path], rel=5e-4)  # biases and norms are left out


@pytest.mark.parametrize("path", ENCODER_CLASSES)
def test_shapes_give_the_number_of_weights_of_transformers_encoders(path):
    model_class, config_class, options = ENCODER_CLASSES[path]
    shape = ENCODERS[path]
    config = config_class(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, intermediate_size=shape.intermediate,
        num_attention_heads=16, **options,
    )  # fmt: skip
    with torch.device("meta"):
        encoder = model_class(config)
    assert weights(shape) == pytest.approx(sum(p.numel() for p in encoder.parameters()), rel=2e-3)


@pytest.mark.parametrize("name", PROJECTORS)
def test_a_projector_is_counted_as_it_is_built(name):
    import importlib
    import pkgutil

    import vlmtool.models.projectors as package

    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    projector_class = next(vars(module)[name] for module in modules if name in vars(module))
    for vision, llm in ((1024, 4096), (1152, 896)):
        with torch.device("meta"):
            built = sum(p.numel() for p in projector_class(vision, llm).parameters())
        assert PROJECTORS[name](vision, llm, {}) == pytest.approx(built, rel=0.01)


@pytest.mark.parametrize("name", ["demo_pretrain", "demo_finetune"])
def test_the_estimate_is_that_of_the_parts_themselves(name):
    recipe = load_recipe(name)
    llm = planned_llm(recipe, ASSETS / "llm")
    encoder = planned_encoder(recipe, ASSETS / "vision_encoder")
    projector = planned_projector(recipe, encoder.hidden_size, llm.get_input_embeddings().embedding_dim)
    model = VisionLanguageModel(encoder, projector, llm, image_token_id=400)
    assert estimated_gb(recipe) == pytest.approx(memory_need(model, recipe, torch.device("cpu")).total / 1e9, rel=0.03)


def test_a_lora_of_a_7b_by_hand():
    """LLaVA-1.5's LoRA of rank 128 has 319.8 M weights, its projector 21.0 M, CLIP-L/14-336 without its
    last block 290.9 M.
    """
    trained, llm = 0.3198 + 0.0210, 6.738
    expected = trained * 16 + llm * 2 + CLIP * 4
    assert estimated_gb(load_recipe("llava_v15_7b_finetune_lora")) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["llm.lora=None", "llm.freeze=False"], 16 * 6.738 + 16 * 0.0210 + 4 * CLIP),
        (["llm.lora=None", "projector.freeze=True", "vision_encoder.freeze=False"], 2 * 6.738 + 4 * 0.0210 + 16 * CLIP),
        # 6.476 B weights of linear layers in NF4, 0.262 B of embeddings and head as published
        (["llm.lora=None", "llm.quantization='nf4'"], 6.476 * (0.5 + 1 / 64) + 0.262 * 2 + 16 * 0.0210 + 4 * CLIP),
        (["planned.gpus=0", "llm.lora=None"], 4 * 6.738 + 16 * 0.0210 + 4 * CLIP),
    ],
)  # fmt: skip
def test_what_is_trained_and_quantised_counts(overrides, expected):
    assert estimated_gb(load_recipe("llava_v15_7b_finetune_lora", overrides)) == pytest.approx(expected, rel=2e-3)


def test_two_encoders_side_by_side_count_both():
    """SigLIP-so400m without its last block 412.9 M weights, DINOv2-large without its own 291.8 M; the projector leads
    from 1152 + 1024 to 4096.
    """
    expected = 6.738 * 2 + (0.4129 + 0.2918) * 4 + (2176 * 4096 + 4096 * 4096) / 1e9 * 16
    assert estimated_gb(load_recipe("prismatic_vicuna_7b_siglip_dinov2_pretrain")) == pytest.approx(expected, rel=2e-3)
    unknown = ["vision_encoder.beside.path=mine/vit"]
    assert estimated_gb(load_recipe("prismatic_vicuna_7b_siglip_dinov2_pretrain", unknown)) is None


def test_nothing_is_guessed_of_unknown_parts():
    for unknown in ("llm.path=mine/llm", "vision_encoder.path=mine/vit", "projector.type=mine.Projector"):
        assert estimated_gb(load_recipe("llava_v15_7b_pretrain", [unknown])) is None
