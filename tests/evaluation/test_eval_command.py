"""`vlmtool eval`: one benchmark, or all that lie below a folder, with one load of the model."""

import json
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from vlmtool.cli.eval import evaluate
from vlmtool.cli.eval_all import result_folders
from vlmtool.utils.errors import UsageError, VlmtoolError

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def command():
    app = Typer()
    app.command()(evaluate)

    def invoke(*arguments: object):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit | VlmtoolError):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """A model that says yes to all; each load is noted."""
    names: list[str] = []

    def load_chat_model(model, **parts):
        names.append(model)
        return SimpleNamespace(
            identity="weights",
            prompt_length=lambda request: 5,
            prepare=list,
            answer=lambda requests, settings: ["yes" if settings.max_new_tokens == 100 else "?"] * len(requests),
        )

    monkeypatch.setitem(sys.modules, "vlmtool.chat.load", SimpleNamespace(load_chat_model=load_chat_model))
    return names


@pytest.fixture
def root(tmp_path, write_table) -> Path:
    """POPE and two MMBench files, as they are downloaded; MME's folder is empty."""
    root = tmp_path / "root"
    pope = root / "pope"
    shutil.copytree(DATA / "pope", pope)
    names = {json.loads(line)["image"] for path in pope.glob("coco_pope_*") for line in path.read_text().splitlines()}
    (pope / "val2014").mkdir()
    for name in names:
        Image.new("RGB", (8, 8)).save(pope / "val2014" / name)
    (root / "mmbench").mkdir()
    for name in ("mmbench_dev_en.tsv", "mmbench_dev_cn.tsv"):
        shutil.move(write_table({}, name=name), root / "mmbench" / name)
    (root / "MME").mkdir()
    return root


def test_all_benchmarks_below_a_folder_are_scored_with_one_load(command, loads, root, tmp_path):
    result = command("all", "model", "--data-root", root, "--work-dir", tmp_path / "w")
    assert loads == ["model"]
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())
    assert [(row["benchmark"], row["data"]) for row in summary] == [
        ("mmbench", "mmbench_dev_cn.tsv"), ("mmbench", "mmbench_dev_en.tsv"), ("pope", "pope"),
    ]  # fmt: skip
    pope = json.loads((tmp_path / "w" / "pope" / "metrics.json").read_text())["scores"]
    assert pope["MEAN"]["yes_ratio"] == pope["MEAN"]["recall"] == 1  # it said yes to all
    assert summary[2]["score"] == pytest.approx(100 * sum(pope[name]["f1"] for name in list(pope)[:-1]) / 3)
    assert (tmp_path / "w" / "mmbench_mmbench_dev_en" / "predictions.jsonl").is_file()
    assert "pope" in result.stdout


def test_a_broken_benchmark_is_named_and_costs_the_others_nothing(command, loads, root, tmp_path):
    (root / "MME" / "existence").mkdir()
    (root / "MME" / "existence" / "0001.txt").write_text("Is there a dog? Please answer yes or no.")
    result = command("all", "model", "--data-root", root, "--work-dir", tmp_path / "w")
    assert result.exit_code == 1 and "1 could not be read: mme" in str(result.exception)
    assert "mme is left out" in result.stderr
    assert len(json.loads((tmp_path / "w" / "summary.json").read_text())) == 3


def test_nothing_below_the_folder_is_an_error_that_says_what_was_looked_for(command, tmp_path):
    result = command("all", "model", "--data-root", tmp_path, "--work-dir", tmp_path / "w")
    assert "no benchmark's files are below it. Looked for: gqa, mmbench" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("poep", "model"), "Did you mean 'pope'"),
        (("pope", "model"), "--data-path is missing"),
        (("pope", "model", "--data-path", "nowhere"), "no such file or folder"),
        (("pope",), "eval pope: no model"),
        (("all", "model"), "--data-root is missing"),
        (("all", "model", "--data-root", "nowhere"), "--data-root nowhere: no such folder"),
        (("pope", "model", "--data-root", "."), "--data-root belongs to `eval all`"),
        (("pope", "model", "--data-path", DATA / "pope", "--extractor", "strict"), "pope has no such rule"),
        (("pope", "model", "--data-path", DATA / "pope"), "pictures are not there"),
        (("pope", "model", "--data-path", DATA / "pope", "--batch-size", "many"), "neither a number"),
    ],
)
def test_wrong_options_are_told_before_the_model_is_loaded(command, loads, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = command(*arguments)
    assert message in str(result.exception) and loads == []


def test_each_benchmark_has_its_own_folder():
    found = [("a", Path("x/one.json")), ("b", Path("x/one.json")), ("b", Path("y/one.json")), ("b", Path("two.json"))]
    names = [folder.name for folder in result_folders(found, Path("w"))]
    assert names == ["a", "b_one_1", "b_one_2", "b_two"]


def test_what_was_not_taken_is_said_after_the_table(command, loads, root, tmp_path, write_table):
    write_table({"answer": "a dog"}, columns=("index", "question", "answer", "image"), name="root/open.tsv")
    printed = command("all", "model", "--data-root", root, "--work-dir", tmp_path / "w").stdout
    assert "not recognised: open.tsv" in printed and "not found: gqa, mmvet, multiple_choice" in printed


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--ocr-tokens",), ["--ocr-tokens"]),
        (("--image-folder", "."), []),
        (("--judge-url", "http://x/v1", "--judge-model", "m"), ["--judge-url"]),
    ],
)
def test_options_without_effect_are_told(command, tmp_path, more, told):
    given = tmp_path / "p.jsonl"
    given.write_text('{"index": 0, "prediction": "yes"}\n')
    result = command("pope", "--data-path", DATA / "pope", "--predictions", given, "--work-dir", tmp_path / "w", *more)
    lines = [line for line in result.stderr.splitlines() if "no effect" in line]
    assert lines == [f"Warning: {option} has no effect for pope." for option in told]


def test_a_folder_of_pictures_has_no_effect_on_pictures_in_the_table(command, tmp_path, write_table):
    given = tmp_path / "p.jsonl"
    given.write_text('{"index": 0, "prediction": "A"}\n')
    arguments = ("--data-path", write_table({}), "--predictions", given, "--work-dir", tmp_path / "w")
    result = command("multiple_choice", *arguments, "--image-folder", tmp_path)
    assert "Warning: --image-folder has no effect for multiple_choice." in result.stderr


def test_a_judge_that_is_not_there_is_told_before_the_model_is_loaded(command, loads, tmp_path):
    data = tmp_path / "mm-vet.json"
    data.write_text(json.dumps({"v1_0": {"imagename": "1.png", "question": "?", "answer": "x", "capability": ["ocr"]}}))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "1.png")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # not listening: connections are refused
        judge = ("--judge-url", f"http://127.0.0.1:{free.getsockname()[1]}/v1", "--judge-model", "m")
        result = command("mmvet", "model", "--data-path", data, "--work-dir", tmp_path / "w", *judge)
    assert isinstance(result.exception, UsageError) and loads == []
    lines = str(result.exception).splitlines()
    assert len(lines) == 3 and "cannot be reached" in lines[0] and "No question was asked" in lines[1]
