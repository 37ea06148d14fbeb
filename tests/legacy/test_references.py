"""The reference models against a head-by-head recomputation in float64 and facts of their definitions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.legacy.checkpoints import ARCHITECTURES, make_legacy_checkpoint
from tests.legacy.parts import RMSNorm

# Float32 rounding: logits have a standard deviation near 1, and 24 tokens through two layers stay within 1e-5.
TOLERANCE = dict(atol=5e-5, rtol=0)

# Of layer 0: its path; the names of first norm, attention, second norm and MLP; how many heads there are of queries
# and of keys and values; their width; how many of its dimensions rotate.
LLAMA_NAMES = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
LAYERS: dict[str, dict[str, Any]] = {
    "internlm": dict(path="model.layers.0", names=LLAMA_NAMES, heads=4, groups=4, width=32, rotated=32),
    "internlm2": dict(
        path="model.layers.0", names=("attention_norm", "attention", "ffn_norm", "feed_forward"),
        heads=8, groups=2, width=16, rotated=16,
    ),
    "qwen": dict(
        path="transformer.h.0", names=("ln_1", "attn", "ln_2", "mlp"), heads=4, groups=4, width=32, rotated=32
    ),
    "chatglm": dict(
        path="transformer.encoder.layers.0",
        names=("input_layernorm", "self_attention", "post_attention_layernorm", "mlp"),
        heads=8, groups=2, width=16, rotated=8,
    ),
    "xmodel": dict(path="model.layers.0", names=LLAMA_NAMES, heads=16, groups=2, width=16, rotated=16),
}  # fmt: skip
EPSILON = {"internlm": 1e-6, "internlm2": 1e-5, "qwen": 1e-6, "chatglm": 1e-5, "xmodel": 1e-5}
THETA = {"internlm": 1e4, "internlm2": 1e6, "qwen": 1e4, "chatglm": 1e4, "xmodel": 1e4}


def some_ids(length: int = 24) -> Tensor:
    return torch.randint(0, 384, (2, length), generator=torch.Generator().manual_seed(1))


def record(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The list to which each later forward pass of `module` adds its first input and its output."""
    passes: list[tuple[Tensor, Tensor]] = []
    module.register_forward_hook(lambda _, inputs, output: passes.append((inputs[0], output)))
    return passes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_later_tokens_leave_earlier_logits(architecture: str, tmp_path: Path) -> None:
    reference = make_legacy_checkpoint(architecture, tmp_path)
    ids = some_ids()
    changed = ids.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 384
    before, after = reference(ids), reference(changed)
    assert before.shape == (2, 24, 384) and before.dtype == torch.float32
    torch.testing.assert_close(after[:, :10], before[:, :10], **TOLERANCE)
    assert (after[:, 10:] - before[:, 10:]).abs().amax(-1).min() > 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_distances_between_positions_count(architecture: str, tmp_path: Path) -> None:
    reference = make_legacy_checkpoint(architecture, tmp_path)
    ids, positions = some_ids(), torch.arange(24)
    torch.testing.assert_close(reference(ids, positions + 7), reference(ids), **TOLERANCE)
    assert (reference(ids, positions * 2) - reference(ids)).abs().max() > 0.1


def rows_of_head(attention: nn.Module, architecture: str, head: int) -> list[tuple[Tensor, Tensor | None]]:
    """(weight (D, hidden), bias (D,) or None) of query head `head` and of the key and value that it reads."""
    heads, groups, width = (LAYERS[architecture][name] for name in ("heads", "groups", "width"))
    ratio = heads // groups
    group = head // ratio
    if architecture == "internlm2":  # by group: q q q q k v | q q q q k v
        first = group * (ratio + 2)
        places = [(attention.wqkv, first + offset) for offset in (head % ratio, ratio, ratio + 1)]
    elif architecture in ("qwen", "chatglm"):  # all q | all k | all v
        fused = attention.c_attn if architecture == "qwen" else attention.query_key_value
        places = [(fused, head), (fused, heads + group), (fused, heads + groups + group)]
    else:
        places = [(attention.q_proj, head), (attention.k_proj, group), (attention.v_proj, group)]
    rows = [(linear, slice(place * width, (place + 1) * width)) for linear, place in places]
    return [(linear.weight[cut], None if linear.bias is None else linear.bias[cut]) for linear, cut in rows]


def rotate(x: Tensor, position: int, architecture: str) -> Tensor:
    """One token's head (D,) as complex numbers, number i turned by position * theta ** (-2i / rotated)."""
    rotated = LAYERS[architecture]["rotated"]
    result = x.clone()
    for i in range(rotated // 2):
        real, imaginary = (2 * i, 2 * i + 1) if architecture == "chatglm" else (i, i + rotated // 2)
        angle = torch.tensor(position * THETA[architecture] ** (-2 * i / rotated), dtype=torch.float64)
        turned = torch.complex(x[real], x[imaginary]) * torch.polar(torch.ones_like(angle), angle)
        result[real], result[imaginary] = turned.real, turned.imag
    return result


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_equals_one_head_at_a_time(architecture: str, tmp_path: Path) -> None:
    """Each query head with its own key and value, cut from the weights by row; no repeated or fused tensor."""
    reference = make_legacy_checkpoint(architecture, tmp_path, num_layers=1).double()
    layer = LAYERS[architecture]
    attention = reference.get_submodule(layer["path"]).get_submodule(layer["names"][1])
    passes = record(attention)
    reference(some_ids(5)[:1])
    (x,), output = passes[0]
    heads = []
    for head in range(layer["heads"]):
        query, key, value = (
            nn.functional.linear(x, *rows) for rows in rows_of_head(attention, architecture, head)
        )  # (T, D)
        for_each_token = []
        for t in range(len(x)):
            turned = rotate(query[t], t, architecture)
            scores = torch.stack([turned @ rotate(key[s], s, architecture) for s in range(t + 1)])
            for_each_token.append((scores / layer["width"] ** 0.5).softmax(0) @ value[: t + 1])
        heads.append(torch.stack(for_each_token))
    last = list(attention.children())[-1]  # o_proj, wo, c_proj, dense
    # The reference's angles are float32.
    torch.testing.assert_close(output[0], last(torch.cat(heads, dim=-1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mlp_is_down_of_silu_gate_times_up(architecture: str, tmp_path: Path) -> None:
    reference = make_legacy_checkpoint(architecture, tmp_path, num_layers=1)
    names = {
        "internlm": ("gate_proj", "up_proj", "down_proj"),
        "internlm2": ("w1", "w3", "w2"),
        "qwen": ("w2", "w1", "c_proj"),
        "chatglm": ("dense_h_to_4h", "dense_h_to_4h", "dense_4h_to_h"),
        "xmodel": ("gate_proj", "up_proj", "down_proj"),
    }[architecture]
    mlp = reference.get_submodule(LAYERS[architecture]["path"]).get_submodule(LAYERS[architecture]["names"][3])
    gate, up, down = (mlp.get_submodule(name).weight for name in names)
    if architecture == "chatglm":
        gate, up = gate[:192], up[192:]
    x = torch.randn(3, gate.shape[1], generator=torch.Generator().manual_seed(3))
    expected = (nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T
    torch.testing.assert_close(mlp(x), expected, **TOLERANCE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_residuals_start_before_the_norms(architecture: str, tmp_path: Path) -> None:
    reference = make_legacy_checkpoint(architecture, tmp_path)
    layer = reference.get_submodule(LAYERS[architecture]["path"])
    whole, *parts = (record(module) for module in (layer, *map(layer.get_submodule, LAYERS[architecture]["names"])))
    logits = reference(some_ids())
    (x, output), (first, attention, second, mlp) = whole[0], (passes[0] for passes in parts)
    assert torch.equal(first[0], x) and torch.equal(attention[0], first[1])
    assert torch.equal(second[0], x + attention[1]) and torch.equal(mlp[0], second[1])
    assert torch.equal(output, x + attention[1] + mlp[1])
    assert 0.5 < logits.std() < 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_norms_are_rms_norms_of_the_published_epsilon(architecture: str, tmp_path: Path) -> None:
    reference = make_legacy_checkpoint(architecture, tmp_path)
    norms = [module for module in reference.modules() if isinstance(module, RMSNorm)]
    assert len(norms) == 5  # two in each of two layers, and the last
    for norm in norms:
        size = norm.weight.shape[0]
        x = torch.randn(3, size, generator=torch.Generator().manual_seed(4)) / 100  # small, so that epsilon counts
        expected = nn.functional.rms_norm(x, (size,), norm.weight, EPSILON[architecture])
        torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("internlm", dict(rope_theta=5e5)),
        ("internlm2", dict(rope_theta=1e4)),
        ("qwen", dict(rope_theta=1e6)),
        ("chatglm", dict(rope_ratio=2)),
        ("chatglm", dict(rope_ratio=2, version=2)),
    ],
)
def test_rotary_options_reach_the_logits(architecture: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The weights depend on the seed alone, so a difference comes from the option."""
    plain = make_legacy_checkpoint(architecture, tmp_path / "plain")
    other = make_legacy_checkpoint(architecture, tmp_path / "other", **options)
    assert (other(some_ids()) - plain(some_ids())).abs().max() > 0.01


def test_chatglm2_32k_divides_positions_where_chatglm3_32k_multiplies_the_base(tmp_path: Path) -> None:
    plain, second, third = (
        make_legacy_checkpoint("chatglm", tmp_path / str(number), **options)
        for number, options in enumerate([{}, dict(rope_ratio=2, version=2), dict(rope_ratio=2, version=3)])
    )
    ids, positions = some_ids(), torch.arange(24)
    torch.testing.assert_close(second(ids, positions * 2), plain(ids), **TOLERANCE)
    assert third.theta == 20000
    assert (third(ids, positions * 2) - plain(ids)).abs().max() > 0.01
