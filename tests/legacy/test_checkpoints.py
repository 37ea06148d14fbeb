"""What make_legacy_checkpoint writes: names, shapes, config.json, shards, types, special ids."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.legacy.checkpoints import ARCHITECTURES, make_legacy_checkpoint
from tests.legacy.published_names import BIN_BUFFERS, CONFIG_FIELDS, PUBLISHED
from tests.standins import make_tokenizer


def read_shards(folder: Path, suffix: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob(f"*.{suffix}")):
        shard = load_file(file) if suffix == "safetensors" else torch.load(file, weights_only=True)
        assert not shard.keys() & state.keys()
        state |= shard
    return state


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_shards_hold_the_published_names_and_shapes(architecture: str, weights: str, tmp_path: Path) -> None:
    make_legacy_checkpoint(architecture, tmp_path, weights=weights, num_layers=1)
    state = read_shards(tmp_path, weights)
    expected = PUBLISHED[architecture] | (BIN_BUFFERS.get(architecture, {}) if weights == "bin" else {})
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected
    stem = "model" if weights == "safetensors" else "pytorch_model"
    index = json.loads((tmp_path / f"{stem}.{weights}.index.json").read_text())
    assert index["weight_map"].keys() == expected.keys()
    assert set(index["weight_map"].values()) == {f"{stem}-{k:05d}-of-00002.{weights}" for k in (1, 2)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_config_has_the_published_fields(architecture: str, tmp_path: Path) -> None:
    make_legacy_checkpoint(architecture, tmp_path, dtype=torch.float16, num_layers=1)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.items() >= CONFIG_FIELDS[architecture].items()
    assert config["torch_dtype"] == "float16"
    assert config["auto_map"]["AutoModelForCausalLM"].startswith("modeling_")
    assert "rope_ratio" not in config  # only the 32k models have it
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tied_output_is_the_embedding(architecture: str, tmp_path: Path) -> None:
    reference = make_legacy_checkpoint(architecture, tmp_path / "a", tie_word_embeddings=True)
    make_legacy_checkpoint(architecture, tmp_path / "b", weights="bin", tie_word_embeddings=True)
    safe, pickled = read_shards(tmp_path / "a", "safetensors"), read_shards(tmp_path / "b", "bin")
    embedding = next(tensor for name, tensor in safe.items() if "embed" in name or "wte" in name)
    assert reference.output_key not in safe
    assert torch.equal(pickled[reference.output_key], embedding)
    assert torch.equal(reference.get_parameter(reference.output_key), embedding)


def test_reference_has_the_rounded_values_of_the_shards(tmp_path: Path) -> None:
    reference = make_legacy_checkpoint("qwen", tmp_path, dtype=torch.bfloat16)
    for name, tensor in read_shards(tmp_path, "safetensors").items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(reference.get_parameter(name), tensor.float())


def test_biases_and_norms_are_random_and_the_seed_counts(tmp_path: Path) -> None:
    first = make_legacy_checkpoint("internlm", tmp_path / "a", seed=0)
    again = make_legacy_checkpoint("internlm", tmp_path / "b", seed=0)
    other = make_legacy_checkpoint("internlm", tmp_path / "c", seed=1)
    for name, weight in first.named_parameters():
        assert torch.equal(weight, again.get_parameter(name))
        assert weight.std() > 0.05 and not torch.equal(weight, other.get_parameter(name))


def test_a_given_tokenizer_is_saved_with_its_ids(tmp_path: Path) -> None:
    make_legacy_checkpoint("xmodel", tmp_path, tokenizer=make_tokenizer())
    config = json.loads((tmp_path / "config.json").read_text())
    assert (tmp_path / "tokenizer.json").exists()
    assert [config[f"{kind}_token_id"] for kind in ("bos", "eos", "pad")] == [0, 1, 2]


@pytest.mark.parametrize("options", [{}, dict(rope_ratio=2), dict(rope_ratio=2, version=2)])
def test_chatglm_stores_frequencies_of_base_10000_whatever_the_ratio(options: dict[str, int], tmp_path: Path) -> None:
    make_legacy_checkpoint("chatglm", tmp_path, **options)
    frequencies = read_shards(tmp_path, "safetensors")["transformer.rotary_pos_emb.inv_freq"]
    torch.testing.assert_close(frequencies, torch.tensor([1.0, 0.1, 0.01, 0.001]))  # 10000 ** (-2i / 8)
    assert json.loads((tmp_path / "config.json").read_text()).get("rope_ratio") == options.get("rope_ratio")
