"""Parts of one's own, in files outside the package: those of docs/extending.md, by its commands."""

import re
import shutil
import subprocess
import sys
from textwrap import dedent

import pytest
import torch
from transformers import Aimv2VisionConfig, Aimv2VisionModel, CLIPImageProcessorPil

from tests.engine.command import ROOT, environment
from tests.standins import HIDDEN_SIZE, make_llama, make_llava_data
from vlmtool.chat.load import load_chat_model
from vlmtool.convert.merge import merge_folder
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.engine.train import train
from vlmtool.recipe.load import load_recipe
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.pixels import Pixels

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^`lab/(\S+)`:\n\n((?:    .*\n|\n)+)", PAGE, re.MULTILINE))
COMMANDS = [line.split("#")[0].split() for line in re.findall(r"^    vlmtool (.*)$", PAGE, re.MULTILINE)]
SIDE, PATCH_SIZE, GROUP = 32, 8, 4  # px, px, patches per token


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with the page's files in lab/, small parts and data where they look for them."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "lab").mkdir()
    for name, text in FILES.items():
        (folder / "lab" / name).write_text(dedent(text))
    tokens = ["<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    make_llama(folder / "org" / "name", 3, special_tokens=tokens)
    make_aimv2(folder / "apple" / "aimv2-large-patch14-224")
    make_llava_data(folder / "data", seed=5).rename(folder / "data" / "pretrain.json")
    shutil.copy(folder / "data" / "images" / "000_0.jpg", folder / "photo.jpg")
    return folder


def make_aimv2(folder):
    torch.manual_seed(0)
    config = Aimv2VisionConfig(
        hidden_size=HIDDEN_SIZE, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE,
        patch_size=PATCH_SIZE, use_head=False,
    )  # fmt: skip
    Aimv2VisionModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder
    )


def vlmtool(lab, words, **more):
    command = [sys.executable, "-m", "vlmtool", *words]
    path = f"{ROOT}:lab"
    return subprocess.run(
        command, cwd=lab, env=environment(**{"PYTHONPATH": path, **more}), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


def test_a_users_projector_encoder_and_language_model_train_and_chat(lab, monkeypatch):
    train, convert, chat = COMMANDS[:3]
    done = vlmtool(lab, [*train, "--set", "schedule.batch_size=4", "--set", "data.num_workers=0"])
    assert done.returncode == 0, done.stderr
    assert "AIMv2Encoder" in (lab / "work_dirs" / "my_pretrain" / "recipe.py").read_text()
    converted = vlmtool(lab, convert)
    assert converted.returncode == 0, converted.stderr
    [advised] = [line for line in converted.stdout.splitlines() if "vlmtool chat" in line]
    assert advised.endswith(" --trust-remote-code")

    question = ["--question", "What is it?", "--max-new-tokens", "4"]
    refused = vlmtool(lab, [*(word for word in chat if word != "--trust-remote-code"), *question])
    assert refused.returncode == 1 and "my_encoder.AIMv2Encoder' is code of somebody else's" in refused.stderr
    told = vlmtool(lab, [*chat, *question])
    assert told.returncode == 0 and told.stdout.strip(), told.stderr

    monkeypatch.chdir(lab)
    monkeypatch.syspath_prepend(lab / "lab")
    generator = load_chat_model("my_model", trust_remote_code=True)
    encoder = generator.model.vision_encoder
    assert type(encoder).__name__ == "AIMv2Encoder" and encoder.num_blocks == 3
    assert generator.transform.num_tokens("photo.jpg") == (SIDE // PATCH_SIZE) ** 2 // GROUP


@pytest.fixture
def inside(lab, monkeypatch):
    """The folder is the current one, and its files are importable."""
    monkeypatch.chdir(lab)
    monkeypatch.syspath_prepend(lab / "lab")
    yield lab
    for name in ("my_encoder", "my_projector"):
        sys.modules.pop(name, None)


def test_an_adapter_on_a_users_encoder_is_merged(inside, tmp_path):
    overrides = ["schedule.batch_size=2", "schedule.max_steps=3", "data.num_workers=0", "schedule.save_epochs=False"]
    lora = ["vision_encoder.freeze=None", "vision_encoder.lora=dict(r=4, alpha=8)"]
    checkpoint = train("lab/my_pretrain.py", [*overrides, *lora], tmp_path / "run")
    with pytest.raises(CheckpointError, match="is code of somebody else's"):
        pth_to_hf(None, checkpoint, tmp_path / "hf", force=True)
    pth_to_hf(load_recipe("lab/my_pretrain.py", lora), checkpoint, tmp_path / "hf")
    with pytest.raises(CheckpointError, match="vision_encoder.type = 'my_encoder.AIMv2Encoder' is code of somebody"):
        merge_folder(tmp_path / "hf", tmp_path / "merged")
    merge_folder(tmp_path / "hf", tmp_path / "merged", trust_remote_code=True)
    apart, merged = (load_chat_model(str(tmp_path / name), trust_remote_code=True).model for name in ("hf", "merged"))
    pixels = Pixels.one_view_each(torch.randn(2, 3, SIDE, SIDE))
    expected = apart.vision_encoder(pixels)[0]
    torch.testing.assert_close(merged.vision_encoder(pixels)[0], expected, rtol=0, atol=1e-5)
    with apart.vision_encoder.model.disable_adapter():
        assert (apart.vision_encoder(pixels)[0] - expected).abs().max() > 1e-3
