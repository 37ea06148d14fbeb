"""Parts that do not belong together: refused with both hashes, or forced and recorded, down to the last descendant."""

import json
import shutil
from base64 import b64encode
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from tests.convert.conftest import LORA, Train, Trained
from tests.standins import make_clip, make_llama
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.models.fingerprint import config_hash, part_hash
from vlmtool.models.manifest import listed_files, read_manifest, read_part_manifest
from vlmtool.recipe.load import recipe_text
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import sha256

ASK = ("--question", "Say a word.", "--device", "cpu")


def vlmtool(*arguments: object) -> int:
    return invoke(app, [*map(str, arguments)], debug=False)


@pytest.fixture
def run(train: Train) -> Trained:
    return train(llm={"lora": LORA})


@pytest.fixture
def recipe(run: Trained, tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(recipe_text(run.recipe, "Mine."))
    return path


@pytest.fixture
def folder(run: Trained, tmp_path: Path) -> Path:
    return pth_to_hf(run.recipe, run.path, tmp_path / "hf")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A language model of the same shapes."""
    return make_llama(tmp_path / "other", 9)


def refused_then_forced(capsys, *arguments: object) -> str:
    """The one line of the refusal; with `--force` the command does it, and warns by the same text."""
    capsys.readouterr()
    assert vlmtool(*arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "--force" in lines[2], lines
    assert vlmtool(*arguments, "--force") == 0
    text = lines[0].removeprefix("Error: ")
    assert f"Warning: {text} Forced." in capsys.readouterr().err
    return text


def test_another_base_in_pth_to_hf(run, recipe, other, standins, tmp_path, capsys):
    command = ("convert", "pth_to_hf", recipe, run.path, tmp_path / "hf", "--set", f"llm.path={str(other)!r}")
    text = refused_then_forced(capsys, *command)
    assert part_hash(standins.llama)[:12] in text and part_hash(other)[:12] in text
    manifest = read_manifest(tmp_path / "hf")
    assert manifest.forced == (text,) and manifest.llm.base == str(other)
    assert manifest.llm.sha256 == part_hash(other) and manifest.llm.config_sha256 == config_hash(other)
    assert vlmtool("chat", tmp_path / "hf", *ASK) == 0  # it was decided once
    assert vlmtool("convert", "merge", tmp_path / "hf", tmp_path / "merged") == 0
    assert (
        read_manifest(tmp_path / "merged").forced == read_part_manifest(tmp_path / "merged" / "llm").forced == (text,)
    )
    capsys.readouterr()
    assert vlmtool("inspect", tmp_path / "merged") == 0
    assert part_hash(other)[:12] in capsys.readouterr().out.partition("forced")[2]


def test_another_recipe_in_pth_to_hf(run, recipe, tmp_path, capsys):
    command = ("convert", "pth_to_hf", recipe, run.path, tmp_path / "hf", "--set", "llm.lora.r=4")
    text = refused_then_forced(capsys, *command)
    assert "llm.lora.r = 8" in text and "says 4" in text
    settings = json.loads((tmp_path / "hf" / "llm_adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 8 and read_manifest(tmp_path / "hf").forced == (text,)  # as it was trained


def test_another_config_json_is_another_base(run, recipe, standins, tmp_path, capsys):
    base = Path(shutil.copytree(standins.llama, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.01}))
    command = ("convert", "pth_to_hf", recipe, run.path, tmp_path / "hf", "--set", f"llm.path={str(base)!r}")
    text = refused_then_forced(capsys, *command)
    assert f"config.json {config_hash(standins.llama)[:12]}" in text and config_hash(base)[:12] in text


def test_another_base_in_merge(folder, other, standins, tmp_path, capsys):
    text = refused_then_forced(capsys, "convert", "merge", other, folder / "llm_adapter", tmp_path / "merged")
    assert part_hash(standins.llama)[:12] in text and part_hash(other)[:12] in text
    manifest = read_part_manifest(tmp_path / "merged")
    assert manifest.forced == (text,) and manifest.sha256 == part_hash(other)


def test_a_base_that_changed_since_in_merge(train, tmp_path, capsys):
    base = make_llama(tmp_path / "base", 1)
    run = train(llm={"path": str(base), "lora": LORA})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    before = part_hash(base)
    make_llama(base, 2)
    text = refused_then_forced(capsys, "convert", "merge", folder, tmp_path / "merged")
    manifest = read_manifest(tmp_path / "merged")
    assert before[:12] in text and manifest.forced == (text,) and manifest.llm.sha256 == part_hash(base)


def test_another_base_in_chat(folder, other, standins, capsys):
    text = refused_then_forced(capsys, "chat", other, "--llava", folder, *ASK)
    assert part_hash(standins.llama)[:12] in text and part_hash(other)[:12] in text
    refused_then_forced(capsys, "chat", other, "--adapter", folder / "llm_adapter", "--prompt-template", "vicuna", *ASK)


def test_another_base_in_mmbench(folder, other, tmp_path, capsys):
    row = "index\tquestion\tA\tB\tanswer\timage\n1\tWhich?\tred\tblue\tA\t{}\n"
    buffer = BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, "PNG")
    (tmp_path / "m.tsv").write_text(row.format(b64encode(buffer.getvalue()).decode()))
    command = ("mmbench", other, "--llava", folder, "--data-path", tmp_path / "m.tsv", "--work-dir", tmp_path / "w")
    refused_then_forced(capsys, *command)


def test_what_cannot_fit_is_not_forced(folder, standins, tmp_path, capsys):
    wide = make_clip(tmp_path / "wide", 3)
    lone = Path(shutil.copytree(folder / "llm_adapter", tmp_path / "lone"))
    assert vlmtool("convert", "merge", wide, lone, tmp_path / "merged", "--force") == 2
    bigger = make_llama(tmp_path / "bigger", 4)
    config = json.loads((bigger / "config.json").read_text())
    LlamaForCausalLM(LlamaConfig(**config | {"hidden_size": 128})).save_pretrained(bigger)
    for command in (("chat", bigger, "--llava", folder, *ASK), ("convert", "merge", bigger, lone, tmp_path / "merged")):
        capsys.readouterr()
        assert vlmtool(*command, "--force") == 1
        assert "does not fit" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("name", ["encoder.layers.1.mlp.fc1.weight", "embeddings.class_embedding", "pre_layrnorm.bias"])
def test_a_lost_weight_of_a_whole_encoder_is_noticed(train, tmp_path, name):
    run = train(vision_encoder={"freeze": False})
    content = torch.load(run.path, weights_only=True)
    lost = [key for key in content["state_dict"] if key.endswith(name)]
    assert len(lost) == 1
    del content["state_dict"][lost[0]]
    torch.save(content, run.path)
    with pytest.raises(CheckpointError, match=f"{name}' is missing"):
        pth_to_hf(None, run.path, tmp_path / "hf")


def test_a_manifest_hashes_every_file(folder, run):
    manifest = read_manifest(folder)
    assert manifest.files == {str(file.relative_to(folder)): sha256(file) for file in listed_files(folder)}
    assert "llm_adapter/adapter_config.json" in manifest.files and "vlmtool.json" not in manifest.files
    assert manifest.projector_config == {
        "type": "vlmtool.models.projectors.mlp.MLPProjector", "vision_hidden_size": 64, "llm_hidden_size": 64,
        "options": {"depth": 2, "hidden_act": "gelu", "bias": True},
    }  # fmt: skip
    assert manifest.forced == () and len(manifest.template.sha256) == 64
