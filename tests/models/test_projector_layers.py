"""Each projector's layers against those of its paper: transformers' own, a restatement, counts made by hand."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    InternVLConfig,
    InternVLModel,
)
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

from tests.models.projector_parts import WIDTHS, features, on_meta, size, small
from vlmtool.models.projectors.ldp import LDPProjector
from vlmtool.models.projectors.ldpv2 import LDPv2Projector
from vlmtool.models.projectors.pixel_shuffle import PixelShuffleProjector
from vlmtool.models.projectors.qformer import QFormerProjector
from vlmtool.models.projectors.resampler import PerceiverResampler
from vlmtool.models.projectors.xdp import XDPProjector


@pytest.mark.parametrize(
    ("cls", "by_hand", "total"),
    [
        # Linear(4 · 1024 → 2048), Linear(2048 → 2048); the paper says 12.6 M
        (XDPProjector, 4096 * 2048 + 2048 + 2048 * 2048 + 2048, 12_587_008),
        # Linear, Linear; twice: depthwise, norm, squeeze to 512 and back, pointwise, norm
        (
            LDPProjector,
            1024 * 2048 + 2048 + 2048 * 2048 + 2048
            + 2 * (9 * 2048 + 2 * 2048 + (2048 * 512 + 512) + (512 * 2048 + 2048) + 2048 * 2048 + 2 * 2048),
            18_936_832,
        ),
        # Linear, Linear; depthwise with bias
        (LDPv2Projector, 1024 * 2048 + 2048 + 2048 * 2048 + 2048 + 9 * 2048 + 2048, 6_316_032),
    ],
)  # fmt: skip
def test_parameters_of_the_mobile_projectors(cls, by_hand, total):
    projector = on_meta(cls, 1024, 2048)
    assert size(projector) == by_hand == total
    assert projector(torch.empty(2, 576, 1024, device="meta")).shape == (2, 144, 2048)


def test_xdp_joins_consecutive_patches():
    projector, images = small(XDPProjector), features()
    first, _, second = projector.mlp
    hidden = torch.cat([images[:, 0::2], images[:, 1::2]], dim=-1) @ first.weight.T + first.bias
    mish = hidden * torch.tanh(torch.log1p(hidden.exp()))
    assert torch.allclose(projector(images), mish @ second.weight.T + second.bias, atol=1e-5)


def test_ldp_is_a_renaming_of_the_published_layers():
    """Names of the published weights, in the order of the module; each block is MobileNetV3's."""
    projector, images = small(LDPProjector), features(2, 25)
    blocks = [
        f"mb_block.{number}.block.{layer}"
        for number in (1, 2)
        for layer in (
            "0.0.weight", "0.1.weight", "0.1.bias", "1.fc1.weight", "1.fc1.bias", "1.fc2.weight", "1.fc2.bias",
            "2.0.weight", "2.1.weight", "2.1.bias",
        )
    ]  # fmt: skip
    names = ["mlp.1.weight", "mlp.1.bias", "mlp.3.weight", "mlp.3.bias", *blocks]
    published = dict(zip(names, projector.state_dict().values(), strict=True))

    hidden = F.gelu(F.linear(images, published["mlp.1.weight"], published["mlp.1.bias"]))
    hidden = F.linear(hidden, published["mlp.3.weight"], published["mlp.3.bias"])
    grid = torch.stack([hidden[:, 5 * row : 5 * row + 5] for row in range(5)], dim=1).permute(0, 3, 1, 2)
    grid = grid + mobile_block(published, "mb_block.1.block", grid, stride=1)
    grid = mobile_block(published, "mb_block.2.block", grid, stride=2)
    tokens = torch.stack([grid[:, :, row, column] for row in range(3) for column in range(3)], dim=1)
    assert projector.num_tokens(25) == 9
    assert torch.allclose(projector(images), tokens, atol=1e-5)


def mobile_block(published: dict[str, Tensor], name: str, grid: Tensor, stride: int) -> Tensor:
    """Depthwise, norm, hardswish; squeeze and excitation; pointwise, norm."""
    own = {key.removeprefix(f"{name}."): value for key, value in published.items() if key.startswith(f"{name}.")}

    def norm(values: Tensor, layer: str) -> Tensor:
        mean, variance = values.mean(1, keepdim=True), values.var(1, keepdim=True, correction=0)
        scaled = (values - mean) / (variance + 1e-5).sqrt()
        return scaled * own[f"{layer}.weight"][:, None, None] + own[f"{layer}.bias"][:, None, None]

    grid = norm(F.conv2d(grid, own["0.0.weight"], stride=stride, padding=1, groups=grid.shape[1]), "0.1")
    grid = grid * (grid + 3).clamp(0, 6) / 6
    squeezed = F.conv2d(F.adaptive_avg_pool2d(grid, 1), own["1.fc1.weight"], own["1.fc1.bias"]).clamp(min=0)
    weight = (F.conv2d(squeezed, own["1.fc2.weight"], own["1.fc2.bias"]) + 3).clamp(0, 6) / 6
    return norm(F.conv2d(grid * weight, own["2.0.weight"]), "2.1")


def test_ldpv2_pools_and_adds_the_neighbours():
    projector, images = small(LDPv2Projector), features(2, 64)  # 8 x 8 to 4 x 4
    first, _, second = projector.mlp
    hidden = second(F.gelu(first(images))).unflatten(1, (8, 8))
    cells = (hidden[:, 0::2, 0::2] + hidden[:, 0::2, 1::2] + hidden[:, 1::2, 0::2] + hidden[:, 1::2, 1::2]) / 4
    kernel, padded = projector.positions.weight, F.pad(cells, (0, 0, 1, 1, 1, 1))
    moved = sum(padded[:, r : r + 4, c : c + 4] * kernel[:, 0, r, c] for r in range(3) for c in range(3))
    expected = (cells + moved + projector.positions.bias).flatten(1, 2)
    assert torch.allclose(projector(images), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
def test_pixel_shuffle_is_internvls(factor):
    """The order of the channels and the layers, of transformers."""
    torch.manual_seed(0)
    projector, images = PixelShuffleProjector(*WIDTHS, factor=factor).eval(), features(2, 64)
    config = InternVLConfig(
        vision_config=dict(hidden_size=WIDTHS[0], num_attention_heads=2),
        text_config=dict(model_type="llama", hidden_size=WIDTHS[1], num_attention_heads=2),
        downsample_ratio=1 / factor,
    )
    reference = InternVLMultiModalProjector(config).eval()
    names = {"layer_norm": "model.0", "linear_1": "model.1", "linear_2": "model.3"}
    nn.init.normal_(projector.model[0].weight)
    nn.init.normal_(projector.model[0].bias)
    renamed = {f"{theirs}.{kind}": projector.state_dict()[f"{ours}.{kind}"] for theirs, ours in names.items()
               for kind in ("weight", "bias")}  # fmt: skip
    reference.load_state_dict(renamed)
    shuffled = InternVLModel.pixel_shuffle(None, images.unflatten(1, (8, 8)), scale_factor=1 / factor)
    expected = reference(shuffled.flatten(1, 2))
    assert torch.allclose(projector(images), expected, atol=1e-6)


def test_qformer_is_transformers():
    projector, images = small(QFormerProjector), features()
    given = {name: value for name, value in projector.options().items() if name not in ("num_queries", "dropout")}
    reference = Blip2QFormerModel(Blip2QFormerConfig(encoder_hidden_size=WIDTHS[0], **given)).eval()
    reference.load_state_dict(projector.qformer.state_dict())
    normed = F.layer_norm(images, (WIDTHS[0],), projector.ln_vision.weight, projector.ln_vision.bias)
    hidden = reference(projector.query_tokens.repeat(2, 1, 1), encoder_hidden_states=normed).last_hidden_state
    last = projector.language_projection
    assert torch.allclose(projector(images), hidden @ last.weight.T + last.bias, atol=1e-6)


def test_qformer_has_the_names_and_shapes_of_blip2():
    llm = dict(model_type="opt", hidden_size=64, num_attention_heads=4, num_hidden_layers=1, word_embed_proj_dim=64)
    config = Blip2Config(text_config=llm)
    with torch.device("meta"):
        blip2 = Blip2ForConditionalGeneration(config)
    ours = {name: value.shape for name, value in on_meta(QFormerProjector, 1408, 64).state_dict().items()}
    norm = {f"ln_vision.{kind}": ours.pop(f"ln_vision.{kind}") for kind in ("weight", "bias")}
    theirs = {name: value.shape for name, value in blip2.state_dict().items()}
    parts = ("query_tokens", "qformer.", "language_projection.")
    assert ours == {name: shape for name, shape in theirs.items() if name.startswith(parts)}
    assert list(norm.values()) == [theirs[f"vision_model.post_layernorm.{kind}"] for kind in ("weight", "bias")]


def test_resampler_is_flamingos():
    projector, images = small(PerceiverResampler), features()
    state = projector.state_dict()

    def norm(values: Tensor, name: str) -> Tensor:
        return F.layer_norm(values, values.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    latents = state["latents"].repeat(2, 1, 1)
    for number in range(3):
        layer = f"layers.{number}"
        normed = norm(latents, f"{layer}.latent_norm")
        read = torch.cat([norm(images, f"{layer}.patch_norm"), normed], dim=1)
        query, key, value = (state[f"{layer}.{part}.weight"].view(2, 4, 16) for part in ("query", "key", "value"))
        scores = torch.einsum("iqd,hkd,ipe,hke->ihqp", normed, query, read, key) / math.sqrt(4)
        attended = torch.einsum("ihqp,ipd,hkd->iqhk", scores.softmax(-1), read, value).flatten(2)
        latents = latents + attended @ state[f"{layer}.out.weight"].T
        hidden = F.gelu(norm(latents, f"{layer}.ffn.0") @ state[f"{layer}.ffn.1.weight"].T)
        latents = latents + hidden @ state[f"{layer}.ffn.3.weight"].T
    expected = norm(latents, "norm") @ state["linear.weight"].T + state["linear.bias"]
    assert torch.allclose(projector(images), expected, atol=1e-5)
