"""`convert native`: a folder that transformers loads alone, with the logits of the reference."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from tests.convert.conftest import LORA, Train, input_ids, logits, plain_llm
from tests.convert.test_commands import fails, vlmtool
from tests.legacy.checkpoints import ARCHITECTURES, make_legacy_checkpoint
from vlmtool.chat.load import load_chat_model
from vlmtool.convert import native as module
from vlmtool.convert import parts
from vlmtool.convert.merge import merge_folder
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.engine.planned import planned_llm
from vlmtool.models.llm import load_llm
from vlmtool.models.manifest import read_part_manifest

EXACT = {"rtol": 0.0, "atol": 1e-5}  # float32, sums in another order


@pytest.fixture
def tokenizer(standins):
    return AutoTokenizer.from_pretrained(standins.llama)


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_alone_loads_what_is_written(architecture, weights, tokenizer, tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    reference = make_legacy_checkpoint(architecture, src, weights=weights, tokenizer=tokenizer)
    settings = {"chat_format": "chatml", "eos_token_id": 1, "max_new_tokens": 512, "top_p": 0.8, "do_sample": True}
    (src / "generation_config.json").write_text(json.dumps(settings))
    assert vlmtool("native", src, dst, "--max-shard-size", "300KB") == 0
    said = json.loads((dst / "config.json").read_text())
    assert "auto_map" not in said and said["dtype"] == "float32" and str(src) not in json.dumps(said)
    assert not list(dst.glob("*.py")) and len(list(dst.glob("model-*.safetensors"))) > 1
    with torch.no_grad():
        torch.testing.assert_close(logits(plain_llm(dst)), reference(input_ids()), **EXACT)
    text = "What colour is the circle?"
    assert AutoTokenizer.from_pretrained(dst)(text).input_ids == tokenizer(text).input_ids
    assert GenerationConfig.from_pretrained(dst).eos_token_id == 1


def test_types_and_origin_are_kept(tokenizer, tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    make_legacy_checkpoint("chatglm", src, dtype=torch.bfloat16, tokenizer=tokenizer)
    assert vlmtool("native", src, dst) == 0
    assert {weight.dtype for weight in plain_llm(dst, dtype="auto").state_dict().values()} == {torch.bfloat16}
    manifest = read_part_manifest(dst)
    assert (manifest.part, manifest.base, manifest.merged) == ("llm", str(src), ())
    assert vlmtool("native", src, dst) == 0  # its own folder is replaced


def test_no_more_than_a_shard_is_copied(tokenizer, tmp_path, monkeypatch):
    src, dst = tmp_path / "src", tmp_path / "dst"
    make_legacy_checkpoint("qwen", src, tokenizer=tokenizer)
    sizes, save = [], parts.save_file

    def spy(tensors, *arguments, **others):
        sizes.append(sum(value.nbytes for value in tensors.values()))
        save(tensors, *arguments, **others)

    monkeypatch.setattr(parts, "save_file", spy)
    assert vlmtool("native", src, dst, "--max-shard-size", "300KB") == 0
    assert len(sizes) > 3 and max(sizes) <= 300_000


def test_refusals(standins, tokenizer, tmp_path, capsys, monkeypatch):
    src, dst = tmp_path / "src", tmp_path / "dst"
    make_legacy_checkpoint("internlm2", src, tokenizer=tokenizer)
    assert "no checkpoint that has to be converted" in fails(capsys, 2, "native", standins.llama, dst)
    assert "an image encoder" in fails(capsys, 2, "native", standins.clip, dst)
    assert "there is no folder" in fails(capsys, 2, "native", tmp_path / "none", dst)
    assert "which is read" in fails(capsys, 2, "native", src, src)
    assert "--max-shard-size" in fails(capsys, 2, "native", src, dst, "--max-shard-size", "big")
    usage = SimpleNamespace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda _: usage)
        assert "0.0 GB are free there" in fails(capsys, 2, "native", src, dst)
    dst.mkdir()
    (dst / "mine.txt").write_text("kept")
    assert "'mine.txt'" in fails(capsys, 2, "native", src, dst)
    assert [entry.name for entry in dst.iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_a_conversion_that_fails(tokenizer, tmp_path, capsys):
    src, dst = tmp_path / "src", tmp_path / "dst"
    make_legacy_checkpoint("internlm2", src)
    assert "tokenizer" in fails(capsys, 1, "native", src, dst)
    tokenizer.save_pretrained(src)
    (src / "model-00002-of-00002.safetensors").unlink()
    assert "is missing" in fails(capsys, 1, "native", src, dst)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["src"]


@pytest.mark.parametrize("llm", [{"freeze": False}, {"lora": LORA}, {"lora": LORA, "quantization": "nf4"}])
def test_a_training_on_a_legacy_base_becomes_native(llm, train: Train, tokenizer, tmp_path):
    base = tmp_path / "base"
    make_legacy_checkpoint("internlm2", base, tokenizer=tokenizer)
    run = train(llm={"path": str(base), **llm})
    assert planned_llm(run.recipe, base).config.model_type == "llama"
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    whole = folder if "lora" not in llm else merge_folder(folder, tmp_path / "merged")
    chat = load_chat_model(str(folder), device="cpu")
    written = plain_llm(whole / "llm")
    torch.testing.assert_close(logits(written), logits(chat.model.llm), **EXACT)
    assert (logits(written) - logits(load_llm(base, torch.float32))).abs().max() > 0.1
    assert AutoTokenizer.from_pretrained(whole / "llm")("circle").input_ids == tokenizer("circle").input_ids


def test_code_beside_the_weights_is_never_run(tokenizer, tmp_path):
    """Not even where it is allowed: the native class needs none."""
    src = tmp_path / "src"
    make_legacy_checkpoint("internlm2", src, tokenizer=tokenizer)
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for name in ("configuration_internlm2.py", "modeling_internlm2.py"):
        (src / name).write_text(trap)
    load_llm(src, torch.float32, trust_remote_code=True)
    assert vlmtool("native", src, tmp_path / "dst") == 0
    assert not (tmp_path / "ran").exists()


def test_the_copy_moves(tokenizer, tmp_path):
    """Nothing in it names the place where it was written."""
    src, dst = tmp_path / "src", tmp_path / "dst"
    reference = make_legacy_checkpoint("xmodel", src, tokenizer=tokenizer)
    assert vlmtool("native", src, dst) == 0
    moved = Path(shutil.move(dst, tmp_path / "moved"))
    shutil.rmtree(src)
    with torch.no_grad():
        torch.testing.assert_close(logits(plain_llm(moved)), reference(input_ids()), **EXACT)
