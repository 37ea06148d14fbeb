"""Merged parts, loaded with transformers alone, against base and adapter through peft."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoImageProcessor, AutoTokenizer, CLIPVisionModel

from tests.convert.conftest import LORA, Train, features, input_ids, logits, pixels, plain_llm
from tests.standins import make_llama
from vlmtool.chat.load import load_chat_model
from vlmtool.convert import merge as module
from vlmtool.convert.merge import merge_folder, merge_part
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.models.fingerprint import part_hash
from vlmtool.models.manifest import read_manifest, read_part_manifest
from vlmtool.utils.errors import CheckpointError, UsageError


@pytest.fixture
def folder(train: Train, tmp_path: Path) -> Path:
    """A model folder with an adapter trained on an NF4 LLM, and one on the encoder."""
    run = train(llm={"lora": LORA, "quantization": "nf4"}, vision_encoder={"lora": LORA})
    return pth_to_hf(run.recipe, run.path, tmp_path / "hf")


def test_an_adapter_of_nf4_merges_into_the_original_weights(folder, standins, tmp_path):
    merged = merge_part(str(standins.llama), str(folder / "llm_adapter"), tmp_path / "merged")
    with_adapter = PeftModel.from_pretrained(plain_llm(standins.llama), folder / "llm_adapter")
    torch.testing.assert_close(logits(plain_llm(merged)), logits(with_adapter), rtol=0, atol=1e-5)
    theirs = with_adapter.merge_and_unload().state_dict()
    torch.testing.assert_close(plain_llm(merged).state_dict(), theirs, rtol=0, atol=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert len(tokenizer) == 384 and tokenizer.chat_template is None  # the base's own


def test_what_a_killed_conversion_left_is_removed_by_the_next(folder, standins, tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    number = int(dead.stdout)
    gone = [tmp_path / f".{name}.tmp{number}" for name in ("merged", "whole")]
    kept = [tmp_path / f".other.tmp{number}", tmp_path / f".merged.tmp{os.getppid()}"]
    for path in (*gone, *kept):
        path.mkdir()
        (path / "model.safetensors").touch()
    merge_part(str(standins.llama), str(folder / "llm_adapter"), tmp_path / "merged")
    assert [path.exists() for path in (*gone, *kept)] == [False, True, True, True]
    merge_folder(folder, tmp_path / "whole")
    assert [path.exists() for path in (*gone, *kept)] == [False, False, True, True]


def test_the_encoder(folder, standins, tmp_path):
    merged = merge_part(str(standins.clip), str(folder / "visual_encoder_adapter"), tmp_path / "merged", is_clip=True)
    base = CLIPVisionModel.from_pretrained(standins.clip)
    with_adapter = PeftModel.from_pretrained(base, folder / "visual_encoder_adapter")
    torch.testing.assert_close(
        features(CLIPVisionModel.from_pretrained(merged)), features(with_adapter), rtol=0, atol=1e-5
    )
    assert AutoImageProcessor.from_pretrained(merged, backend="pil").size == {"shortest_edge": 32}
    assert read_part_manifest(merged).part == "vision_encoder"


def test_sixteen_bit_weights_are_rounded_once(train, tmp_path):
    base = make_llama(tmp_path / "base", 1, dtype=torch.bfloat16)
    run = train(llm={"path": str(base), "lora": LORA})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf", fp32=True)
    merged = plain_llm(merge_part(str(base), str(folder / "llm_adapter"), tmp_path / "merged"), dtype="auto")
    exact = PeftModel.from_pretrained(plain_llm(base, dtype=torch.float32), folder / "llm_adapter").merge_and_unload()
    assert merged.dtype is torch.bfloat16
    for name, weight in exact.state_dict().items():
        assert torch.equal(merged.state_dict()[name], weight.to(torch.bfloat16)), name


def test_the_manifest_names_what_is_inside(folder, standins, tmp_path):
    adapter = folder / "llm_adapter"
    manifest = read_part_manifest(merge_part(str(standins.llama), str(adapter), tmp_path / "merged"))
    assert manifest.part == "llm" and manifest.base == str(standins.llama)
    assert manifest.sha256 == part_hash(standins.llama)
    assert [(m.sha256, m.source) for m in manifest.merged] == [(part_hash(adapter), str(adapter))]
    with pytest.raises(CheckpointError, match="inside already"):
        merge_part(str(tmp_path / "merged"), str(adapter), tmp_path / "twice")


def test_generation_settings_that_transformers_finds_odd_are_kept(folder, standins, tmp_path):
    """As Vicuna's: a temperature without sampling."""
    odd = {"temperature": 0.9, "top_p": 0.6, "do_sample": False, "bos_token_id": 0, "eos_token_id": 1}
    base = shutil.copytree(standins.llama, tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps(odd))
    merged = merge_part(str(base), str(folder / "llm_adapter"), tmp_path / "merged")
    assert json.loads((merged / "generation_config.json").read_text()) == odd


def test_every_adapter_of_a_folder(folder, standins, tmp_path):
    merged = merge_folder(folder, tmp_path / "merged")
    names = {entry.name for entry in merged.iterdir() if entry.is_dir()}
    assert names == {"llm", "visual_encoder", "projector"}
    manifest = read_manifest(merged)
    for part, sub_folder, adapter in (
        (manifest.llm, "llm", "llm_adapter"), (manifest.vision_encoder, "visual_encoder", "visual_encoder_adapter"),
    ):  # fmt: skip
        assert part.adapter is None and part.weights == sub_folder
        assert [m.sha256 for m in part.merged] == [part_hash(folder / adapter)]
        assert read_part_manifest(merged / sub_folder).merged == part.merged

    merged_chat, chat = (load_chat_model(str(path), device="cpu") for path in (merged, folder))
    assert merged_chat.renderer.template == chat.renderer.template
    ids = torch.cat([torch.full((2, 4), chat.model.image_token_id), input_ids()], dim=1)
    with torch.no_grad():
        ours, theirs = (
            m.llm(inputs_embeds=m.embed(ids, m.encode_images(pixels()))).logits for m in (merged_chat.model, chat.model)
        )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_merged_part_goes_with_the_folder_of_its_adapter(folder, tmp_path):
    merged = merge_folder(folder, tmp_path / "merged")
    chat = load_chat_model(
        str(merged / "llm"), llava=str(folder), visual_encoder=str(merged / "visual_encoder"), device="cpu"
    )
    torch.testing.assert_close(logits(chat.model.llm), logits(plain_llm(merged / "llm")))  # not applied twice
    base = CLIPVisionModel.from_pretrained(merged / "visual_encoder")
    with torch.no_grad():
        torch.testing.assert_close(chat.model.vision_encoder(pixels())[0], features(base)[:, 1:])


def test_a_part_without_adapter_stays_as_it_was(train, standins, tmp_path):
    run = train(llm={"lora": LORA}, vision_encoder={"freeze": False})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    merged = merge_folder(folder, tmp_path / "merged")
    assert part_hash(merged / "visual_encoder") == part_hash(folder / "visual_encoder")
    assert read_manifest(merged).vision_encoder == read_manifest(folder).vision_encoder
    with pytest.raises(UsageError, match="nothing to merge"):
        merge_folder(merged, tmp_path / "again")


def test_an_adapter_on_another_base_is_refused(folder, standins, tmp_path):
    other = make_llama(tmp_path / "other", 9)
    with pytest.raises(CheckpointError) as caught:
        merge_part(str(other), str(folder / "llm_adapter"), tmp_path / "merged")
    assert part_hash(other)[:12] in str(caught.value) and part_hash(standins.llama)[:12] in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_an_adapter_without_manifest_must_fit(folder, standins, tmp_path):
    lone = shutil.copytree(folder, tmp_path / "lone")
    (lone / "vlmtool.json").unlink()
    with pytest.raises(UsageError, match="is of a language model"):
        merge_part(str(standins.clip), str(lone / "llm_adapter"), tmp_path / "merged")
    with pytest.raises(CheckpointError, match="does not fit LlamaForCausalLM"):
        merge_part(str(standins.llama), str(lone / "visual_encoder_adapter"), tmp_path / "merged")
    merge_part(str(standins.llama), str(lone / "llm_adapter"), tmp_path / "merged")


def test_the_other_parts_adapter_is_refused(folder, standins, tmp_path):
    with pytest.raises(UsageError, match="is of the vision_encoder"):
        merge_part(str(standins.llama), str(folder / "visual_encoder_adapter"), tmp_path / "merged")


def test_a_base_that_changed_since_is_refused(train, tmp_path):
    base = make_llama(tmp_path / "base", 1)
    run = train(llm={"path": str(base), "lora": LORA})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    make_llama(base, 2)
    with pytest.raises(CheckpointError, match="was trained on"):
        merge_folder(folder, tmp_path / "merged")


def test_an_error_in_the_middle_leaves_nothing(folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "save_encoder", fail)  # the LLM is written by then
    with pytest.raises(OSError, match="no space"):
        merge_folder(folder, tmp_path / "merged")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["hf", "run"]


def test_the_folder_is_not_written_over_itself(folder):
    with pytest.raises(UsageError, match="which is read"):
        merge_folder(folder, folder)
