"""Folders that bring Python code: it runs only under --trust-remote-code, whichever part it is and whoever loads it."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.chat.folders import MLP
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.data.image_processor import load_image_processor
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.models.build import build_vision_encoder, load_encoder_weights
from vlmtool.models.folder import save_projector
from vlmtool.models.llm import load_llm
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.utils.errors import CheckpointError, UsageError
from vlmtool.utils.remote_code import hub_kernel

CODE = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import CLIPImageProcessor, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class EvilConfig(LlamaConfig):
    model_type = "evil"
class EvilModel(LlamaForCausalLM):
    config_class = EvilConfig
class EvilTokenizer(PreTrainedTokenizerFast):
    pass
class EvilProcessor(CLIPImageProcessor):
    pass
"""
MODEL_MAP = {"AutoConfig": "modeling_evil.EvilConfig", "AutoModelForCausalLM": "modeling_evil.EvilModel"}


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "mark"


@pytest.fixture
def with_code(tmp_path, mark) -> Callable[..., Path]:
    """A copy of a folder with `modeling_evil.py`, and `changes` in one of its JSON files."""

    def make(source: Path, file: str, **changes: object) -> Path:
        folder = tmp_path / f"{source.name}_evil"
        if not folder.exists():
            shutil.copytree(source, folder)
        (folder / "modeling_evil.py").write_text(CODE.format(mark=str(mark)))
        content = json.loads((folder / file).read_text()) | changes
        (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
        return folder

    return make


@pytest.fixture
def yes(monkeypatch) -> None:
    """Whoever asks at the terminal is told yes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.setattr("builtins.input", lambda *_: "y")


@pytest.fixture
def evil_llm(standins, with_code) -> Path:
    return with_code(standins.llama, "config.json", model_type="evil", architectures=["EvilModel"], auto_map=MODEL_MAP)


@pytest.fixture
def evil_encoder(standins, with_code) -> Path:
    auto_map = {"AutoConfig": "modeling_evil.EvilConfig", "AutoModel": "modeling_evil.EvilModel"}
    return with_code(standins.clip, "config.json", model_type="evil", auto_map=auto_map)


def test_an_llm_that_needs_code_is_refused(evil_llm, mark, yes):
    with pytest.raises(CheckpointError, match="needs code of its own to load, which was not run") as caught:
        load_llm(evil_llm, torch.float32)
    said = str(caught.value)
    assert "--trust-remote-code" in said and "runtime.trust_remote_code" in said and len(said.splitlines()) <= 3
    assert not mark.exists()


def test_an_encoder_that_needs_code_is_refused(evil_encoder, mark, yes):
    for load in (load_encoder_weights, build_vision_encoder):
        with pytest.raises(UsageError, match="image encoder needs code of its own.*\nKnown: CLIPVisionModel") as caught:
            load(evil_encoder, torch.float32)
        assert len(str(caught.value).splitlines()) <= 3
    assert not mark.exists()


def test_a_tokenizer_that_needs_code_is_refused(standins, with_code, mark, yes):
    folder = with_code(
        standins.llama, "tokenizer_config.json", tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["modeling_evil.EvilTokenizer", None]},
    )  # fmt: skip
    with_code(standins.llama, "config.json", model_type="evil")
    with pytest.raises(CheckpointError, match="tokenizer needs code of its own.*\n.*--trust-remote-code") as caught:
        load_tokenizer(folder)
    assert len(str(caught.value).splitlines()) <= 3
    assert not mark.exists()


def test_an_image_processor_that_needs_code_is_refused(standins, with_code, mark, yes):
    auto_map = {"AutoImageProcessor": "modeling_evil.EvilProcessor"}
    changes = {"image_processor_type": "EvilProcessor", "auto_map": auto_map}
    folder = with_code(standins.clip, "preprocessor_config.json", **changes)
    with_code(standins.clip, "config.json", model_type="evil")
    with pytest.raises(CheckpointError, match="image processor needs code of its own, which vlmtool does not run"):
        load_image_processor(folder)
    assert not mark.exists()


def test_code_beside_a_class_of_transformers_is_left_alone(standins, with_code, mark, yes):
    """Many checkpoints bring code for older versions of transformers; the native class serves."""
    llm = with_code(standins.llama, "config.json", auto_map=MODEL_MAP)
    with_code(standins.llama, "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_evil.EvilTokenizer"] * 2})
    assert type(load_llm(llm, torch.float32)).__name__ == "LlamaForCausalLM"
    assert load_tokenizer(llm).is_fast
    encoder = with_code(standins.clip, "config.json", auto_map={"AutoConfig": "modeling_evil.EvilConfig"})
    with_code(standins.clip, "preprocessor_config.json", auto_map={"AutoImageProcessor": "modeling_evil.EvilProcessor"})
    assert type(load_encoder_weights(encoder, torch.float32)).__name__ == "CLIPVisionModel"
    load_image_processor(encoder)
    assert not mark.exists()


def test_a_kernel_of_the_hub_is_code_too(standins, with_code):
    """transformers would fetch it and run it, without asking, where the `kernels` package is installed."""
    llm = with_code(standins.llama, "config.json", attn_implementation="someone/attention@main")
    with pytest.raises(
        CheckpointError, match="asks for code from the hub, 'someone/attention@main', which was not run"
    ):
        load_llm(llm, torch.float32)
    encoder = with_code(standins.clip, "config.json", vision_config={"_attn_implementation": "a/b"})
    with pytest.raises(UsageError, match="asks for code from the hub, 'a/b'"):
        load_encoder_weights(encoder, torch.float32)


@pytest.mark.parametrize(
    "change", [{"crop_size": {"height": 10**6, "width": 10**6}}, {"size": {"shortest_edge": 10**6}}]
)
def test_an_image_processor_cannot_ask_for_pictures_of_any_size(standins, with_code, change):
    folder = with_code(standins.clip, "preprocessor_config.json", **change)
    with pytest.raises(CheckpointError, match="makes pictures of 1,000,000 pixels, 4,096 are the limit"):
        load_image_processor(folder)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({}, None), ({"attn_implementation": "sdpa"}, None), ({"attn_implementation": None}, None),
        ({"text_config": {"attn_implementation": "x/y"}}, "x/y"), ({"a": [{"_attn_implementation": "x/y"}]}, "x/y"),
        ({"attn_implementation": {"": "eager", "text_config": "x/y"}}, "x/y"),
        ({"attn_implementation": "paged|x/y"}, "paged|x/y"), ({"experts_implementation": "x/y"}, "x/y"), ([], None),
    ],
)  # fmt: skip
def test_where_a_kernel_may_be_named(tmp_path, config, found):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert hub_kernel(tmp_path) == found


def test_an_adapter_does_not_pass_for_a_model(standins, tmp_path):
    """transformers would load the base that adapter_config.json names, from anywhere."""
    folder = shutil.copytree(standins.llama, tmp_path / "llm")
    said = {"base_model_name_or_path": "someone/model", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="it is an adapter"):
        load_llm(folder, torch.float32)


@pytest.fixture
def commands(standins, evil_llm, evil_encoder, tmp_path, write_table) -> dict[str, list[str]]:
    """Command lines that load the LLM or the encoder, each in its own way."""
    model = tmp_path / "llava"
    save_projector(
        model / "projector",
        {"type": MLP, "vision_hidden_size": 64, "llm_hidden_size": 64, "options": {"depth": 2}},
        MLPProjector(64, 64).state_dict(),
    )
    parts = ["--llava", str(model), "--prompt-template", "vicuna"]
    recipe = ["--set", f"data.path={str(standins.data)!r}", "--set", f"data.image_folder={str(standins.images)!r}"]
    recipe += ["--set", "schedule.max_steps=1", "--work-dir", str(tmp_path / "run")]
    llm, encoder = str(evil_llm), str(evil_encoder)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}')
    torch.save({}, adapter / "adapter_model.bin")
    merged = str(tmp_path / "merged")
    return {
        "chat, llm": ["chat", llm, *parts, "--visual-encoder", str(standins.clip), "--question", "Hi"],
        "chat, text alone": ["chat", llm, "--prompt-template", "vicuna", "--question", "Hi"],
        "chat, encoder": ["chat", str(standins.llama), *parts, "--visual-encoder", encoder, "--question", "Hi"],
        "mmbench, llm": [
            "mmbench", llm, *parts, "--visual-encoder", str(standins.clip), "--data-path", str(write_table({})),
            "--work-dir", str(tmp_path / "score"),
        ],
        "train, llm": [
            "train", "demo_pretrain", *recipe, "--set", f"llm.path={llm!r}", "--set", "llm.template='vicuna'",
        ],
        "train, encoder": ["train", "demo_pretrain", *recipe, "--set", f"vision_encoder.path={encoder!r}"],
        "merge, llm": ["convert", "merge", llm, str(adapter), merged],
        "merge, encoder": ["convert", "merge", encoder, str(adapter), merged, "--is-clip"],
        "preview, llm": ["data", "preview", "demo_pretrain", *recipe[:4], "--set", f"llm.path={llm!r}"],
    }  # fmt: skip


COMMANDS = [
    "chat, llm", "chat, text alone", "chat, encoder", "mmbench, llm", "train, llm", "train, encoder", "merge, llm",
    "merge, encoder", "preview, llm",
]  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_runs_the_code(commands, mark, yes, capsys, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    code = invoke(app, commands[name], debug=False)
    said = capsys.readouterr().err
    assert not mark.exists()
    if name != "preview, llm":  # the tokenizer alone needs no code
        lines = said[said.rindex("Error:") :].splitlines()
        assert code in (1, 2) and "code of its own" in said and len(lines) <= 3, said


@pytest.mark.slow
@pytest.mark.parametrize("flag", [[], ["--trust-remote-code"]])
def test_the_flag_and_nothing_else_lets_it_run(commands, mark, tmp_path, flag):
    """Through the real command, with somebody who types yes."""
    command = [sys.executable, "-m", "vlmtool", *commands["chat, text alone"], "--max-new-tokens", "2", *flag]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, input="y\ny\n", capture_output=True, text=True, timeout=120, env=environment)
    assert mark.exists() is bool(flag), done.stderr
    if not flag:
        assert done.returncode == 1 and "--trust-remote-code" in done.stderr
        assert len(done.stderr.splitlines()) <= 3 and not done.stdout
