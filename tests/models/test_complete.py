"""A part that lacks weights is refused, not filled up with random ones."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, LlamaConfig, LlamaForCausalLM, SiglipConfig, SiglipModel

from vlmtool.models.build import load_encoder_weights
from vlmtool.models.llm import load_llm
from vlmtool.utils.errors import CheckpointError


def one_block_more(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(content | {"num_hidden_layers": content["num_hidden_layers"] + 1}))


def one_weight_less(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop(sorted(state)[-1])
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("damage", [one_block_more, one_weight_less])
@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_a_language_model_without_all_its_weights_is_refused(standins, tmp_path, damage, quantization):
    folder = shutil.copytree(standins.llama, tmp_path / "llm")
    load_llm(folder, torch.float32, quantization)
    damage(folder)
    with pytest.raises(CheckpointError, match=r"it lacks \d+ weights? that its config.json asks for, first '.+'"):
        load_llm(folder, torch.float32, quantization)


@pytest.mark.parametrize("damage", [one_block_more, one_weight_less])
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_an_encoder_without_all_its_weights_is_refused(standins, tmp_path, damage, name):
    folder = shutil.copytree(getattr(standins, name), tmp_path / name)
    load_encoder_weights(folder, torch.float32)
    damage(folder)
    with pytest.raises(CheckpointError, match="asks for, first"):
        load_encoder_weights(folder, torch.float32)


def test_what_is_not_stored_on_purpose_is_not_missed(standins, tmp_path):
    """A head tied to the embeddings, and the vision half of a whole CLIP or SigLIP."""
    config = LlamaConfig.from_pretrained(standins.llama)
    config.tie_word_embeddings = True
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    for quantization in (None, "nf4", "int8"):
        load_llm(tmp_path / "tied", torch.float32, quantization)
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = small | {"image_size": 32, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=small, vision_config=vision)).save_pretrained(tmp_path / "clip")
    SiglipModel(SiglipConfig(text_config=small, vision_config=vision)).save_pretrained(tmp_path / "siglip")
    for name in ("clip", "siglip"):
        load_encoder_weights(tmp_path / name, torch.float32)
