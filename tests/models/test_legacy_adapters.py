"""Adapters trained on fused modules, on the native classes: against W + B A in the fused weights, mapped after that."""

import json
from base64 import b64encode
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.legacy.checkpoints import make_legacy_checkpoint
from tests.models.test_legacy import EXACT, logits
from vlmtool.chat.adapter import add_adapter
from vlmtool.chat.load import load_chat_model
from vlmtool.convert.merge import merge_part
from vlmtool.convert.native import convert_native
from vlmtool.models.llm import load_llm
from vlmtool.utils.errors import CheckpointError

# What XTuner trained: every linear layer of the blocks, and InternLM2's head.
FUSED = {
    "internlm2": ("wqkv", "wo", "w1", "w2", "w3", "output"),
    "qwen": ("c_attn", "c_proj", "w1", "w2"),
    "chatglm": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}
RANK, ALPHA = 4, 8
RANKS, ALPHAS = {"wo": 2}, {"w1": 24}  # of single modules


def make_fused_adapter(base: Path, folder: Path, merged: Path, architecture: str, **settings: object) -> None:
    """A LoRA on the fused modules as peft writes it, and the base with W + B A alpha / r in their place."""
    draw, weights = torch.Generator().manual_seed(3), {}
    merged.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (merged / file.name).write_bytes(file.read_bytes())
            continue
        state = load_file(file)
        for name, weight in state.items():
            module = name.removesuffix(".weight")
            leaf = module.rpartition(".")[2]
            if module != name and leaf in FUSED[architecture]:
                rank, alpha = RANKS.get(leaf, RANK), ALPHAS.get(leaf, ALPHA)
                a = torch.randn(rank, weight.shape[1], generator=draw) / weight.shape[1] ** 0.5
                b = torch.randn(weight.shape[0], rank, generator=draw) / 16
                weights |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
                state[name] = weight + b @ a * (alpha / rank)
        save_file(state, merged / file.name)
    folder.mkdir()
    said = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    said |= {"rank_pattern": RANKS, "alpha_pattern": ALPHAS, "target_modules": list(FUSED[architecture]), **settings}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    weights = {f"base_model.model.{name}": value for name, value in weights.items()}
    if architecture == "qwen":  # as older versions of peft wrote it
        torch.save(weights, folder / "adapter_model.bin")
    else:
        save_file(weights, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("architecture", FUSED)
def test_the_same_update_on_legacy_base_and_native_copy(architecture, standins, tmp_path):
    base, adapter, fused, copy = (tmp_path / name for name in ("base", "adapter", "fused", "copy"))
    make_legacy_checkpoint(architecture, base, tokenizer=AutoTokenizer.from_pretrained(standins.llama))
    make_fused_adapter(base, adapter, fused, architecture)
    wanted = logits(load_llm(fused, torch.float32))
    assert (wanted - logits(load_llm(base, torch.float32))).abs().max() > 0.5
    convert_native(str(base), copy)
    for folder in (base, copy):
        chat = load_chat_model(str(folder), adapter=str(adapter), prompt_template="vicuna", device="cpu")
        torch.testing.assert_close(logits(chat.model.llm), wanted, **EXACT)
        merged = merge_part(str(folder), str(adapter), tmp_path / f"merged_{folder.name}", device="cpu")
        torch.testing.assert_close(logits(load_llm(merged, torch.float32)), wanted, **EXACT)


def test_a_merged_folder_needs_no_code_for_its_tokenizer(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    make_legacy_checkpoint("qwen", base)
    said = {
        "tokenizer_class": "QWenTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
    }
    (base / "tokenizer_config.json").write_text(json.dumps(said))
    lines = [f"{b64encode(bytes([value])).decode()} {value}" for value in range(256)]
    (base / "qwen.tiktoken").write_text("\n".join(lines))
    make_fused_adapter(base, adapter, tmp_path / "fused", "qwen")
    for folder in (
        merge_part(str(base), str(adapter), tmp_path / "merged"),
        convert_native(str(base), tmp_path / "copy"),
    ):
        assert AutoTokenizer.from_pretrained(folder, trust_remote_code=False)("Hi!").input_ids == [*b"Hi!"]
        assert "auto_map" not in (folder / "tokenizer_config.json").read_text()


@pytest.mark.parametrize("settings", [{"bias": "lora_only"}, {"modules_to_save": ["output"]}, {"use_dora": True}])
def test_what_cannot_be_split_is_refused(settings, tmp_path):
    make_legacy_checkpoint("internlm2", tmp_path / "base")
    make_fused_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "fused", "internlm2", **settings)
    with pytest.raises(CheckpointError, match="has no native form.\nMerge it with the tool that trained it"):
        add_adapter(load_llm(tmp_path / "base", torch.float32), tmp_path / "adapter")


def test_an_adapter_for_other_sizes_is_refused(tmp_path):
    make_legacy_checkpoint("internlm2", tmp_path / "one")
    make_legacy_checkpoint("internlm2", tmp_path / "two", kv_heads=4)
    make_fused_adapter(tmp_path / "one", tmp_path / "adapter", tmp_path / "fused", "internlm2")
    with pytest.raises(CheckpointError, match="wqkv.lora_B.weight' has shape"):
        add_adapter(load_llm(tmp_path / "two", torch.float32), tmp_path / "adapter")


def test_an_adapter_of_another_class_is_refused(tmp_path):
    make_legacy_checkpoint("internlm2", tmp_path / "one")
    make_legacy_checkpoint("qwen", tmp_path / "two")
    make_fused_adapter(tmp_path / "one", tmp_path / "adapter", tmp_path / "fused", "internlm2")
    with pytest.raises(CheckpointError, match="does not fit Qwen2ForCausalLM"):
        add_adapter(load_llm(tmp_path / "two", torch.float32), tmp_path / "adapter")
