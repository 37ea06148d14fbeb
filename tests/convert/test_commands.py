"""`vlmtool convert` as it is typed: what it writes and prints, its exit codes, its three-line errors."""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from tests.convert.conftest import LORA, Train, Trained
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.models.manifest import read_manifest, read_part_manifest
from vlmtool.recipe.load import recipe_text


def vlmtool(*arguments: object) -> int:
    return invoke(app, ["convert", *map(str, arguments)], debug=False)


@pytest.fixture
def run(train: Train) -> Trained:
    return train(llm={"lora": LORA, "quantization": "nf4"}, vision_encoder={"lora": LORA})


@pytest.fixture
def recipe(run: Trained, tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(recipe_text(run.recipe, "Mine."))
    return path


def fails(capsys, code: int, *arguments: object) -> str:
    """What stands on stderr of a command that must fail with `code`."""
    capsys.readouterr()
    assert vlmtool(*arguments) == code
    message = capsys.readouterr().err
    assert message.startswith("Error: ") and len(message.splitlines()) <= 3, message
    return message


def test_the_guide_s_flow(run, recipe, standins, tmp_path, capsys):
    hf, llm, clip, whole = (tmp_path / name for name in ("hf", "llm", "clip", "whole"))
    assert vlmtool("pth_to_hf", recipe, run.path, hf, "--safe-serialization", "--cfg-options", "schedule.lr=1.0") == 0
    printed = capsys.readouterr().out
    assert "llm_adapter/" in printed and f"vlmtool convert merge {hf}" in printed

    assert vlmtool("merge", standins.llama, hf / "llm_adapter", llm, "--max-shard-size", "2GB", "--device", "cpu") == 0
    assert f"vlmtool chat {llm} --llava {hf}" in capsys.readouterr().out
    assert vlmtool("merge", standins.clip, hf / "visual_encoder_adapter", clip, "--is-clip") == 0
    assert f"--visual-encoder {clip}" in capsys.readouterr().out
    assert [read_part_manifest(part).part for part in (llm, clip)] == ["llm", "vision_encoder"]

    assert vlmtool("merge", hf, whole) == 0
    assert f"vlmtool chat {whole} --image" in capsys.readouterr().out
    assert read_manifest(whole).llm.weights == "llm"


def test_formats_of_other_tools(run, recipe, tmp_path, capsys):
    for save_format in ("huggingface", "official", "xtuner"):
        out = tmp_path / save_format
        assert vlmtool("pth_to_hf", recipe, run.path, out, "--save-format", save_format, "--fp32") == 0
        printed = capsys.readouterr().out
        assert f"How to open it: {out / 'README.md'}" in printed
        assert ("Trained on nf4 weights" in printed) == (save_format != "xtuner")
    message = fails(capsys, 2, "pth_to_hf", recipe, run.path, tmp_path / "out", "--save-format", "hugingface")
    assert "Did you mean 'huggingface'?" in message


def test_what_can_be_known_before_exits_with_2(run, recipe, standins, tmp_path, capsys):
    out = tmp_path / "out"
    assert "no file" in fails(capsys, 2, "pth_to_hf", recipe, tmp_path / "no.pth", out)
    assert "no recipe" in fails(capsys, 2, "pth_to_hf", "lava", run.path, out)
    assert "unknown key" in fails(capsys, 2, "pth_to_hf", recipe, run.path, out, "--set", "llm.lorra=None")
    assert "It takes vlmtool" in fails(capsys, 2, "pth_to_hf", recipe, run.path, out, "--save-format", "vlmtol")
    assert "not a size" in fails(capsys, 2, "pth_to_hf", recipe, run.path, out, "--max-shard-size", "big")
    assert "no folder" in fails(capsys, 2, "pth_to_hf", recipe, run.path, out, "--set", "llm.path='/no/such'")
    assert "SAVE_PATH" in fails(capsys, 2, "pth_to_hf", recipe, run.path, tmp_path)
    assert "BASE" in fails(capsys, 2, "merge", "/no/base", "/no/adapter", out)
    assert "ADAPTER" in fails(capsys, 2, "merge", standins.llama, "/no/adapter", out)
    assert "adapter_config.json" in fails(capsys, 2, "merge", standins.llama, standins.clip, out)
    assert "not a model folder" in fails(capsys, 2, "merge", standins.llama, out)
    assert "2 or 3 paths" in fails(capsys, 2, "merge", standins.llama)
    assert "--device" in fails(capsys, 2, "merge", standins.llama, out, "--device", "tpu")
    assert "--is-clip" in fails(capsys, 2, "merge", standins.llama, out, "--is-clip")
    assert not out.exists()


def test_only_what_a_conversion_wrote_is_replaced(run, recipe, tmp_path, capsys):
    hf = tmp_path / "hf"
    again = ("pth_to_hf", recipe, run.path, hf)
    assert vlmtool(*again) == 0 and vlmtool(*again) == 0
    for name in ("projector/my_notes.txt", "tokenizer_notes.json", "llm_adapter/old/x.safetensors", "config.json"):
        mine = hf / name
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine")
        before = sorted(hf.rglob("*"))
        assert f"holds '{name}'" in fails(capsys, 2, *again)
        assert mine.read_text() == "mine" and sorted(hf.rglob("*")) == before
        mine.unlink()
    (hf / "link").symlink_to(tmp_path / "nowhere")
    assert "holds 'link'" in fails(capsys, 2, *again)
    (hf / "link").unlink()
    manifest = hf / "vlmtool.json"
    for content in ("{}", "{", manifest.read_text().replace('"files"', '"flies"')):
        manifest.write_text(content)
        assert "did not write there" in fails(capsys, 2, *again)


def test_a_merged_part_is_replaced_as_carefully(run, standins, tmp_path, capsys):
    hf, llm = pth_to_hf(run.recipe, run.path, tmp_path / "hf"), tmp_path / "llm"
    again = ("merge", standins.llama, hf / "llm_adapter", llm)
    assert vlmtool(*again) == 0 and vlmtool(*again) == 0
    (llm / "model-00002-of-00002.safetensors").write_text("mine")
    assert "holds 'model-00002-of-00002.safetensors'" in fails(capsys, 2, *again)


def test_a_recipe_that_does_not_agree_exits_with_1(run, recipe, tmp_path, capsys):
    message = fails(capsys, 1, "pth_to_hf", recipe, run.path, tmp_path / "out", "--set", "llm.lora.r=4")
    assert "llm.lora.r = 8" in message and "says 4" in message


def test_a_damaged_checkpoint_exits_with_1(run, recipe, tmp_path, capsys):
    content = run.path.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 30):
        run.path.write_bytes(content[:size])
        assert "iter_7.pth" in fails(capsys, 1, "pth_to_hf", recipe, run.path, tmp_path / "out"), size
    torch.save([1, 2], run.path)
    assert "not a checkpoint of vlmtool" in fails(capsys, 1, "pth_to_hf", recipe, run.path, tmp_path / "out")


def test_the_real_command(run, tmp_path):
    pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    arguments = ["convert", "merge", tmp_path / "hf", tmp_path / "merged"]
    done = subprocess.run([sys.executable, "-m", "vlmtool", *arguments], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(f"Wrote {tmp_path / 'merged'} (")


class Payload:
    """Writes a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_checkpoint_with_code_is_refused(run, recipe, tmp_path, capsys):
    mark = tmp_path / "mark"
    content = torch.load(run.path, weights_only=True)
    torch.save({**content, "meta": {**content["meta"], "data": Payload(mark)}}, run.path)
    with zipfile.ZipFile(run.path) as archive:
        assert any(b"touch" in archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    assert "refused" in fails(capsys, 1, "pth_to_hf", recipe, run.path, tmp_path / "out")
    run.path.write_bytes(pickle.dumps(Payload(mark)))
    fails(capsys, 1, "pth_to_hf", recipe, run.path, tmp_path / "out")
    assert not mark.exists()
