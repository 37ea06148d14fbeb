"""The stage before: what must be the same is refused with both values, forced if it can work, and never forgotten."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import FINETUNE
from tests.standins import make_llama
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.data.templates.library import find_template
from vlmtool.engine.train import train
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.models.fingerprint import part_hash
from vlmtool.models.lineage import text_hash
from vlmtool.models.manifest import read_manifest
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import sha256

PRETRAIN = "llava_vicuna_7b_v15_pretrain"
LORA = "llm.lora=dict(r=8, alpha=16)"
TWO_STEPS = "schedule.max_steps=2"


@pytest.fixture(scope="module")
def before(standins, tmp_path_factory) -> dict[str, Path]:
    """The last checkpoints of the two stages, and the model folder of the second."""
    root = tmp_path_factory.mktemp("before")
    values = {
        "llm.path": str(standins.llama), "vision_encoder.path": str(standins.clip), "data.path": str(standins.data),
        "data.image_folder": str(standins.images), "data.num_workers": 0, "schedule.batch_size": 4, "init_from": None,
    }  # fmt: skip
    small = [*(f"{key}={value!r}" for key, value in values.items()), TWO_STEPS]
    aligned = train(PRETRAIN, small, root / "pretrain")
    tuned = train(FINETUNE, [*small, LORA, f"init_from={str(aligned)!r}"], root / "finetune")
    return {"pretrain": aligned, "finetune": tuned, "folder": pth_to_hf(None, tuned, root / "hf")}


@pytest.fixture
def start(small, tmp_path, capsys) -> Callable[..., tuple[int, str]]:
    """`start(source, *overrides)` is `vlmtool train … --set init_from=source`: its exit code and stderr."""

    def command(source: Path, *overrides: str, force: bool = False) -> tuple[int, str]:
        settings = [*small, LORA, TWO_STEPS, f"init_from={str(source)!r}", *overrides]
        arguments = [word for setting in settings for word in ("--set", setting)]
        capsys.readouterr()
        code = invoke(
            app,
            ["train", FINETUNE, "--work-dir", str(tmp_path / "next"), *arguments, *(["--force"] if force else [])],
            debug=False,
        )
        said = capsys.readouterr().err
        return code, said[said.index("Error: ") :] if code else said  # transformers' bars stand before it

    return command


def test_the_next_stage_names_every_stage_before(before, start, tmp_path):
    assert start(before["folder"])[0] == 0
    meta = read_checkpoint(tmp_path / "next" / "iter_2.pth").meta
    hashes = [sha256(before["folder"] / "vlmtool.json"), sha256(before["finetune"]), sha256(before["pretrain"])]
    assert [parent["sha256"] for parent in meta["parents"]] == hashes
    assert [parent["stage"]["llm"] for parent in meta["parents"]] == ["lora r=8 alpha=16"] * 2 + ["frozen"]
    assert meta["forced"] == []


@pytest.mark.parametrize("source", ["finetune", "folder"])
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("llm.template='internlm_chat'", ("another template", *(
            text_hash(find_template(name, None).jinja)[:12] for name in ("vicuna", "internlm_chat")
        ))),
        ("data.pad_to_square=False", ("data.pad_to_square=True",)),
        ("vision_encoder.select_layer=-1", ("select_layer -2", "select_layer -1")),
        ("vision_encoder.select_strategy='full'", ("select_strategy auto", "select_strategy full")),
        ("projector.hidden_act='relu'", ("hidden_act gelu", "hidden_act relu")),
    ],
)  # fmt: skip
def test_what_could_work_is_refused_then_forced(before, start, tmp_path, source, override, said):
    code, err = start(before[source], override)
    assert code == 1 and len(err.splitlines()) == 3 and all(text in err for text in said), err
    assert not (tmp_path / "next").exists()
    text = err.splitlines()[0].removeprefix("Error: ")
    code, err = start(before[source], override, force=True)
    assert code == 0 and f"Warning: {text} Forced." in err
    checkpoint = tmp_path / "next" / "iter_2.pth"
    assert read_checkpoint(checkpoint).meta["forced"] == [text]
    assert read_manifest(pth_to_hf(None, checkpoint, tmp_path / "hf")).forced == (text,)


def test_another_base_names_both_hashes(before, start, standins, tmp_path):
    other = make_llama(tmp_path / "other", 9)
    code, err = start(before["finetune"], f"llm.path={str(other)!r}")
    assert code == 1 and part_hash(standins.llama)[:12] in err and part_hash(other)[:12] in err
    assert start(before["finetune"], f"llm.path={str(other)!r}", force=True)[0] == 0
    meta = read_checkpoint(tmp_path / "next" / "iter_2.pth").meta
    assert meta["parts"]["llm"]["sha256"] == part_hash(other)


@pytest.mark.parametrize("source", ["finetune", "folder"])
@pytest.mark.parametrize("override", ["projector.depth=3", "projector.depth=1", "projector.bias=False"])
def test_a_projector_that_cannot_fit_is_not_forced(before, start, source, override):
    for force in (False, True):
        code, err = start(before[source], override, force=force)
        assert code == 1 and "projector" in err, err


def test_llava_s_own_change_of_prompt_and_padding_is_free(before, start):
    meta = read_checkpoint(before["pretrain"]).meta
    assert meta["template"]["name"] == "plain" and not meta["pictures"]["pad_to_square"]
    assert start(before["pretrain"])[0] == 0  # vicuna, padded


def test_a_damaged_folder_is_told(before, start, tmp_path):
    folder = Path(shutil.copytree(before["folder"], tmp_path / "hf"))
    file = folder / "projector" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    code, err = start(folder)
    assert code == 1 and "model.safetensors: the weights cannot be read" in err


def test_a_manifest_of_an_earlier_version_is_enough(before, start, tmp_path):
    folder = Path(shutil.copytree(before["folder"], tmp_path / "hf"))
    content = json.loads((folder / "vlmtool.json").read_text())
    for key in ("files", "forced", "projector_config"):
        del content[key]
    del content["llm"]["config_sha256"], content["template"]["sha256"]
    (folder / "vlmtool.json").write_text(json.dumps(content))
    assert start(folder)[0] == 0


def test_resuming_keeps_the_lineage(run, before, small, tmp_path):
    extra = [LORA, f"init_from={str(before['finetune'])!r}", "data.pad_to_square=False", "schedule.save_every=1"]
    first = run("first", *extra, TWO_STEPS, force=True)
    then = read_checkpoint(first / "iter_1.pth").meta
    resumed = run("resumed", *extra, TWO_STEPS, resume_from=first / "iter_1.pth")
    now = read_checkpoint(resumed / "iter_2.pth").meta
    assert len(now["forced"]) == 1 and now["forced"] == then["forced"]
    assert now["parents"] == then["parents"] and len(now["parents"]) == 2


def test_a_run_does_not_go_on_on_another_base(run, small, tmp_path):
    first = run("first", LORA, "schedule.save_every=1", TWO_STEPS)
    other = make_llama(tmp_path / "other", 9)
    with pytest.raises(CheckpointError, match="another llm"):
        run("first", LORA, TWO_STEPS, f"llm.path={str(other)!r}", resume_from=first / "iter_1.pth")
    # A stage that trains the projector alone leaves the prompt free to the next stage, not to itself.
    aligned = run("aligned", "schedule.save_every=1", TWO_STEPS, recipe=PRETRAIN)
    with pytest.raises(CheckpointError, match="another template"):
        run("aligned", TWO_STEPS, "llm.template='vicuna'", recipe=PRETRAIN, resume_from=aligned / "iter_1.pth")
