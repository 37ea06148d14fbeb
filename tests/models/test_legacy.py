"""Checkpoints with remote code in their native classes, against references written from the definitions."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.legacy.checkpoints import ARCHITECTURES, make_legacy_checkpoint
from vlmtool.models.build import build_llm
from vlmtool.models.legacy.find import find_legacy
from vlmtool.models.llm import load_llm, read_llm_config
from vlmtool.recipe.parts import Lora
from vlmtool.utils.errors import CheckpointError

# float32 sums of 128 to 256 products in another order, on logits of about 4.
EXACT = {"rtol": 0.0, "atol": 1e-5}


def input_ids() -> torch.Tensor:
    return torch.randint(3, 300, (2, 24), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    found = model(input_ids())
    return getattr(found, "logits", found).float()


def change(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_native_model_gives_the_logits_of_the_reference(architecture, weights, tmp_path):
    reference = make_legacy_checkpoint(architecture, tmp_path, weights=weights)
    llm = load_llm(tmp_path, torch.float32)
    assert not llm.training and find_legacy(tmp_path).model is type(llm)
    torch.testing.assert_close(logits(llm), logits(reference), **EXACT)


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("internlm", {"bias": False, "rope_theta": 5e5}),
        ("internlm2", {"bias": True}),
        ("internlm2", {"kv_heads": 8, "rope_theta": 1e4}),
        ("internlm2", {"tie_word_embeddings": True}),
        ("qwen", {"rope_theta": 1e6}),
        ("chatglm", {"rope_ratio": 50}),
        ("chatglm", {"rope_ratio": 16, "version": 2}),
        ("xmodel", {"kv_heads": 4, "tie_word_embeddings": True}),
    ],
)
def test_options_of_the_config_are_followed(architecture, options, weights, tmp_path):
    reference = make_legacy_checkpoint(architecture, tmp_path, weights=weights, **options)
    torch.testing.assert_close(logits(load_llm(tmp_path, torch.float32)), logits(reference), **EXACT)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_is_kept_and_close(architecture, tmp_path):
    reference = make_legacy_checkpoint(architecture, tmp_path, dtype=torch.bfloat16)
    llm = load_llm(tmp_path, "auto")
    assert llm.dtype is torch.bfloat16
    wanted = logits(reference)
    difference = (logits(llm) - wanted).abs().mean() / wanted.abs().mean()
    assert difference < 0.03  # bfloat16 keeps 8 bits: 0.4 % in each of some ten operations in a row


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nf4_trains_a_step(architecture, tmp_path):
    make_legacy_checkpoint(architecture, tmp_path)
    llm = build_llm(tmp_path, torch.float32, "nf4", Lora(r=4, alpha=8.0))
    assert any(type(weight).__name__ == "Params4bit" for weight in llm.parameters())
    trained = [weight for weight in llm.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01)
    losses = []
    for _ in range(2):
        logits(llm.eval())  # an evaluation in between takes no gradient away
        loss = llm.train()(input_ids=input_ids(), labels=input_ids()).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and all(weight.grad.abs().sum() > 0 for weight in trained)


def test_sizes_are_known_without_the_weights(tmp_path):
    make_legacy_checkpoint("qwen", tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    for file in shards(tmp_path):
        file.unlink()
    config = read_llm_config(tmp_path)
    assert config.max_position_embeddings == said["seq_length"]  # exact up to there
    assert config.intermediate_size == said["intermediate_size"] // 2


def test_answers_end_where_the_folder_says(tmp_path):
    make_legacy_checkpoint("qwen", tmp_path)
    said = {"chat_format": "chatml", "eos_token_id": [5, 7], "max_window_size": 6144}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    assert load_llm(tmp_path, torch.float32).generation_config.eos_token_id == [5, 7]


def test_other_folders_are_none(standins, tmp_path):
    assert find_legacy(standins.llama) is None and find_legacy(tmp_path) is None


@pytest.mark.parametrize(
    ("architecture", "values", "named"),
    [
        ("internlm", {"rotary": {"type": "xpos", "base": 10000}}, "rotary.type = 'xpos'"),
        ("internlm", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("internlm2", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling"),
        ("qwen", {"no_bias": False}, "no_bias = False"),
        ("qwen", {"visual": {"heads": 16}}, "visual"),
        ("qwen", {"rotary_pct": 0.5}, "rotary_pct = 0.5"),
        ("chatglm", {"add_bias_linear": True}, "add_bias_linear = True"),
        ("chatglm", {"rmsnorm": False}, "rmsnorm = False"),
        ("chatglm", {"pre_seq_len": 128}, "pre_seq_len = 128"),
        ("chatglm", {"rope_ratio": 8, "_name_or_path": "/mine"}, "rope_ratio = 8"),
        ("xmodel", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
    ],
)
def test_what_has_no_native_form_is_refused_by_name(architecture, values, named, tmp_path):
    make_legacy_checkpoint(architecture, tmp_path)
    change(tmp_path, **values)
    with pytest.raises(CheckpointError) as caught:
        load_llm(tmp_path, torch.float32)
    assert named in str(caught.value) and len(str(caught.value).splitlines()) <= 3


def test_the_first_chatglm_is_refused_with_a_remedy(tmp_path):
    said = {"model_type": "chatglm", "num_layers": 28, "position_encoding_2d": True, "inner_hidden_size": 16384}
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="ChatGLM-6B, the first.*\n.*ChatGLM3-6B"):
        load_llm(tmp_path, torch.float32)


def test_a_missing_shard(tmp_path):
    make_legacy_checkpoint("internlm2", tmp_path)
    shards(tmp_path)[1].unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002.safetensors' is missing"):
        load_llm(tmp_path, torch.float32)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda state: {**state, "model.layers.0.attention.wq.weight": torch.ones(2, 2)},
            "no place for .*attention.wq",
        ),
        (lambda state: {**state, "v_head.weight": torch.ones(1, 128)}, "no place for the tensor 'v_head.weight'"),
        (lambda state: {k: v for k, v in state.items() if "0.attention.wo" not in k}, "0.self_attn.o_proj.weight' is"),
        (lambda state: {k: v[:-2] if "0.attention.wqkv" in k else v for k, v in state.items()}, "asks for more rows"),
        (lambda state: {k: torch.cat([v, v]) if "wqkv" in k else v for k, v in state.items()}, "asks for 192 rows"),
        (lambda state: {k: v[:, 1:] if "wqkv" in k else v for k, v in state.items()}, r"asks for \(128, 128\)"),
    ],
)
def test_weights_that_are_not_the_config_s(edit, said, tmp_path):
    make_legacy_checkpoint("internlm2", tmp_path)
    file = shards(tmp_path)[0]
    save_file({name: value.contiguous() for name, value in edit(load_file(file)).items()}, file)
    with pytest.raises(CheckpointError, match=said):
        load_llm(tmp_path, torch.float32)


def test_a_pickle_with_code_is_refused(tmp_path):
    make_legacy_checkpoint("qwen", tmp_path, weights="bin")
    file = tmp_path / "pytorch_model-00001-of-00002.bin"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"transformer.wte.weight": Evil()}))
    with pytest.raises(CheckpointError, match="mkdir"):
        load_llm(tmp_path, torch.float32)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("length", [100, 512, 1500])
@pytest.mark.parametrize(
    ("architecture", "values", "kind", "factor"),
    [
        ("internlm", {"rotary": {"type": "dynamic", "base": 1e4}}, "dynamic", 1.0),
        ("internlm2", {"rope_scaling": {"type": "dynamic", "factor": 3.0}, "rope_theta": 1e4}, "dynamic", 3.0),
        ("internlm2", {"rope_scaling": {"type": "linear", "factor": 3.0}, "rope_theta": 1e4}, "linear", 3.0),
    ],
)
def test_rotary_scaling_follows_its_formula_at_every_length(architecture, values, kind, factor, length, tmp_path):
    """Linear: positions over f. Dynamic: beyond the trained length L the base times (f n / L - f + 1)^(d / (d - 2))."""
    make_legacy_checkpoint(architecture, tmp_path)
    change(tmp_path, max_position_embeddings=512, **values)
    llm = load_llm(tmp_path, torch.float32)
    size, base = llm.config.head_dim, 1e4
    if kind == "dynamic" and length > 512:
        base *= (factor * length / 512 - factor + 1) ** (size / (size - 2))
    positions = torch.arange(length, dtype=torch.float64) / (factor if kind == "linear" else 1)
    angles = positions[:, None] * base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    cosines, _ = llm.model.rotary_emb(torch.ones(1), torch.arange(length)[None])
    # Angles up to 1500 in float32 are known to 1e-4.
    torch.testing.assert_close(cosines[0, :, : size // 2].double(), angles.cos(), rtol=0, atol=5e-4)


@pytest.mark.parametrize(
    "values",
    [
        {"num_key_value_heads": 3}, {"num_key_value_heads": 0}, {"num_attention_heads": "8"}, {"hidden_size": None},
        {"hidden_size": -128}, {"vocab_size": 1}, {"hidden_act": "none"}, {"rope_scaling": "dynamic"},
        {"eos_token_id": {}},
    ],
)  # fmt: skip
def test_a_config_that_makes_no_sense(values, tmp_path):
    make_legacy_checkpoint("internlm2", tmp_path)
    change(tmp_path, **values)
    with pytest.raises(CheckpointError) as caught:
        find_legacy(tmp_path).native_state(tmp_path)
    assert str(tmp_path) in str(caught.value) and len(str(caught.value).splitlines()) <= 3
