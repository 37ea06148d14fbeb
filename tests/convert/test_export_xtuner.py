"""`--save-format xtuner`: names, keys and shapes of XTuner's folder, and what transformers and peft load of it."""

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, CLIPImageProcessor, CLIPVisionModel

from tests.convert.conftest import LORA, Train, features, logits, pixels, plain_llm
from tests.part_library import PartLibrary
from vlmtool.chat.adapter import add_adapter
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.models.manifest import read_lineage, read_manifest
from vlmtool.utils.errors import UsageError

PROJECTOR = ["config.json", "configuration_projector.py", "model.safetensors", "modeling_projector.py"]
EXACT = {"rtol": 0.0, "atol": 1e-6}


def exported(run, tmp_path: Path) -> Path:
    return pth_to_hf(run.recipe, run.path, tmp_path / "export", "xtuner")


def files(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def test_adapters(train: Train, standins, tmp_path):
    run = train(llm={"lora": LORA}, vision_encoder={"lora": LORA})
    folder = exported(run, tmp_path)
    adapter = ["adapter_config.json", "adapter_model.safetensors"]
    assert files(folder) == sorted(
        ["README.md", "vlmtool_lineage.json", "xtuner_config.py"]
        + [f"{sub}/{name}" for sub in ("llm_adapter", "visual_encoder_adapter") for name in adapter]
        + [f"projector/{name}" for name in PROJECTOR]
    )
    llm = PeftModel.from_pretrained(plain_llm(standins.llama), folder / "llm_adapter")
    torch.testing.assert_close(logits(llm), logits(run.model.llm), **EXACT)
    names = load_file(folder / "visual_encoder_adapter" / "adapter_model.safetensors")
    assert {name.split(".layers.")[0] for name in names} == {"base_model.model.vision_model.encoder"}
    encoder = add_adapter(CLIPVisionModel.from_pretrained(standins.clip), folder / "visual_encoder_adapter")
    with torch.no_grad():
        torch.testing.assert_close(features(encoder)[:, 1:], run.model.vision_encoder(pixels())[0], **EXACT)
    settings = json.loads((folder / "llm_adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(standins.llama)


def test_whole_parts(train: Train, tmp_path):
    run = train(llm={"freeze": False}, vision_encoder={"freeze": False})
    folder = exported(run, tmp_path)
    assert [entry.name for entry in sorted(folder.iterdir()) if entry.is_dir()] == [
        "llm",
        "projector",
        "visual_encoder",
    ]
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(folder / "llm")), logits(run.model.llm))
    assert len(AutoTokenizer.from_pretrained(folder / "llm")) == 384
    said = json.loads((folder / "llm" / "config.json").read_text())
    assert (said["torch_dtype"], said["rope_theta"]) == ("float32", 10000.0) and "rope_parameters" not in said
    names = load_file(folder / "visual_encoder" / "model.safetensors")
    assert all(name.startswith("vision_model.") for name in names)
    encoder = CLIPVisionModel.from_pretrained(folder / "visual_encoder")
    with torch.no_grad():
        torch.testing.assert_close(features(encoder)[:, 1:], run.model.vision_encoder(pixels())[0], **EXACT)
    CLIPImageProcessor.from_pretrained(folder / "visual_encoder")


@pytest.mark.parametrize("options", [{"depth": 2}, {"depth": 3, "hidden_act": "silu", "bias": False}])
def test_the_projector_loads_with_its_own_code(options, train: Train, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", sys.path[:])
    run = train(projector=options)
    folder = exported(run, tmp_path) / "projector"
    said = json.loads((folder / "config.json").read_text())
    wanted = {"visual_hidden_size": 64, "llm_hidden_size": 64, "hidden_act": "gelu", "bias": True, **options}
    assert {key: said[key] for key in wanted} == wanted
    assert said["auto_map"] == {
        "AutoConfig": "configuration_projector.ProjectorConfig", "AutoModel": "modeling_projector.ProjectorModel",
    }  # fmt: skip
    assert sorted(load_file(folder / "model.safetensors")) == sorted(run.model.projector.state_dict())
    projector = AutoModel.from_pretrained(folder, trust_remote_code=True)
    patch_features = torch.randn(2, 4, 64)
    with torch.no_grad():
        torch.testing.assert_close(projector(patch_features), run.model.projector(patch_features))


def test_what_it_was_trained_with(train: Train, standins, tmp_path):
    run = train(llm={"path": str(standins.internlm), "template": "internlm_chat", "lora": LORA})
    folder = exported(run, tmp_path)
    lines = ast.parse((folder / "xtuner_config.py").read_text()).body
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    assert values == {
        "llm_name_or_path": str(standins.internlm),
        "visual_encoder_name_or_path": str(standins.clip),
        "visual_select_layer": -2,
        "prompt_template": "internlm_chat",
        "stop_words": ["<eoa>"],
        "pad_image_to_square": True,
    }
    assert read_manifest(folder) is None and read_lineage(folder).llm.adapter == "llm_adapter"


def test_what_its_code_cannot_hold(train: Train, standins, tmp_path):
    parts = PartLibrary(tmp_path / "parts")
    changes = {
        "a SiglipVisionModel": {"vision_encoder": {"path": str(standins.siglip)}},
        "a Dinov2Model": {"vision_encoder": {"path": parts.vision_encoder("facebook/dinov2-large")}},
        "CLS token": {"vision_encoder": {"select_strategy": "full"}},
        "tiles": {"vision_encoder": {"tiles": ((1, 2),)}, "data": {"path": "x.json"}},
        "a LinearProjector": {"projector": {"type": "vlmtool.models.projectors.linear.LinearProjector"}},
    }
    for told, change in changes.items():
        with pytest.raises(UsageError, match=f"xtuner cannot hold .*{told}"):
            exported(train(**{"projector": {"depth": 2}, **change}), tmp_path)
        assert not (tmp_path / "export").exists()
