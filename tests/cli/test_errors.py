"""The mistakes users make, through the real command: at most three lines, the promised exit code, no traceback."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.engine.train import train

RECIPE = "llava_vicuna_7b_v15_finetune"


def vlmtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the real program."""
    command = [sys.executable, "-m", "vlmtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


def expect_error(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Exit code, a short error that holds the words, no traceback."""
    error = done.stderr[done.stderr.index("Error: ") :] if "Error: " in done.stderr else done.stderr
    assert done.returncode == code, done.stderr
    assert 1 <= len(error.strip().splitlines()) <= 3, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in error, done.stderr


@pytest.fixture(scope="module")
def overrides(standins) -> list[str]:
    """A 7B recipe pointed at the stand-ins."""
    values = {
        "llm.path": standins.llama, "vision_encoder.path": standins.clip, "data.path": standins.data,
        "data.image_folder": standins.images, "data.num_workers": 0, "schedule.batch_size": 4, "schedule.max_steps": 1,
        "init_from": None,
    }  # fmt: skip
    return [f"{key}={value}" for key, value in values.items()]


def sets(overrides: list[str]) -> list[str]:
    """As `--set` options."""
    return [word for override in overrides for word in ("--set", override)]


@pytest.fixture(scope="module")
def trained(overrides, tmp_path_factory) -> Path:
    """A run folder."""
    folder = tmp_path_factory.mktemp("run")
    train(RECIPE, overrides, folder)
    return folder


def test_bad_path(overrides, tmp_path):
    wrong = sets([*overrides, "llm.path=./no/such/folder"])
    done = vlmtool("train", RECIPE, "--work-dir", tmp_path / "run", *wrong)
    expect_error(done, 2, "llm.path", "./no/such/folder")
    assert not (tmp_path / "run").exists()


def test_work_dir_that_cannot_be_made(overrides, standins):
    done = vlmtool("train", RECIPE, "--work-dir", standins.data / "run", *sets(overrides))
    expect_error(done, 2, "--work-dir", f"'{standins.data}' is a file")


def test_typo_in_a_recipe_key(overrides):
    done = vlmtool("train", RECIPE, *sets([*overrides, "schedule.batchsize=4"]))
    expect_error(done, 2, "schedule.batchsize", "Did you mean 'batch_size'?")


def test_unknown_recipe_and_option():
    expect_error(vlmtool("train", RECIPE + "e"), 2, f"Did you mean '{RECIPE}'?")
    expect_error(vlmtool("train", RECIPE, "--resme"), 2, "--resume")


def test_missing_image(overrides, standins, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(standins.images, images)
    (images / "000_0.jpg").unlink()
    done = vlmtool("train", RECIPE, "--work-dir", tmp_path / "w", *sets([*overrides, f"data.image_folder={images}"]))
    expect_error(done, 1, "000_0.jpg", "vlmtool data check")


def test_broken_record(overrides, standins, tmp_path):
    records = json.loads(standins.data.read_text())
    records[3]["conversations"][0]["value"] += "<image>"
    (tmp_path / "data.json").write_text(json.dumps(records))
    broken = [*overrides, f"data.path={tmp_path / 'data.json'}"]
    expect_error(
        vlmtool("train", RECIPE, "--work-dir", tmp_path / "w", *sets(broken)), 1, "'r3'", "2 <image> tags but 1 image."
    )


def test_corrupt_checkpoint(overrides, trained, tmp_path):
    whole = (trained / "iter_1.pth").read_bytes()
    (tmp_path / "iter_1.pth").write_bytes(whole[: len(whole) // 2])
    done = vlmtool("convert", "pth_to_hf", RECIPE, tmp_path / "iter_1.pth", tmp_path / "hf", *sets(overrides))
    expect_error(done, 1, "iter_1.pth", "damaged")
    assert not (tmp_path / "hf").exists()


def test_adapter_on_another_base(overrides, trained, standins, tmp_path):
    from vlmtool.recipe.load import load_recipe

    pth_to_hf(load_recipe(RECIPE, overrides), trained / "iter_1.pth", tmp_path / "hf")
    other = vlmtool("convert", "merge", standins.internlm, tmp_path / "hf" / "llm_adapter", tmp_path / "merged")
    expect_error(other, 1, "weights")
    chat = vlmtool("chat", standins.internlm, "--llava", tmp_path / "hf", "--question", "Hello?")
    expect_error(chat, 1, "weights")


def test_missing_picture_and_benchmark_file(tmp_path):
    expect_error(vlmtool("chat", tmp_path, "--image", tmp_path / "none.jpg", "--question", "What?"), 2, "none.jpg")
    expect_error(vlmtool("mmbench", tmp_path, "--data-path", tmp_path / "none.tsv"), 2, "none.tsv")


def test_ctrl_c_tells_how_to_go_on(overrides, tmp_path):
    long = sets([*overrides, "schedule.max_steps=10000", "schedule.save_every=1", "schedule.log_every=1"])
    command = [sys.executable, "-m", "vlmtool", "train", RECIPE, "--work-dir", str(tmp_path), *long]
    # Tests that a script starts in the background inherit an ignored SIGINT, which the run would leave ignored.
    run = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    assert run.stderr is not None
    next(line for line in run.stderr if line.startswith("step 2/"))  # the first step is saved by now
    run.send_signal(signal.SIGINT)
    said = run.stderr.read()
    assert run.wait() == 130
    assert "is the newest checkpoint" in said and "--resume" in said and "Traceback" not in said
