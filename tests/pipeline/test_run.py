"""A pipeline goes on from wherever it stands, and refuses what does not follow."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from tests.pipeline.conftest import in_process
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.convert.inspect import inspect_path
from vlmtool.models.checkpoint import last_checkpoint, read_checkpoint
from vlmtool.models.fingerprint import SHORT
from vlmtool.models.manifest import read_manifest
from vlmtool.pipeline.run import CommandFailed, train_words
from vlmtool.pipeline.stages import Pipeline
from vlmtool.pipeline.standing import STATE_FILE
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import sha256

STAGES = ("align", "tune")
ALL = ["train align", "train tune", "pth_to_hf", "merge", "eval"]
CONFIRMED = ["train align --resume", "train tune --resume"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(last_checkpoint(folder)).state_dict


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def scores(root: Path) -> tuple[dict, list[dict]]:
    """The scores, and every answer that they are of: the words of an untrained model differ with each weight."""
    folder = root / "tune/scores/mmbench_questions"
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return json.loads((folder / "metrics.json").read_text())["scores"], [row["prediction"] for row in rows]


def replace(checkpoint: Path) -> None:
    """Another checkpoint of the same run under the same name."""
    content = torch.load(checkpoint, weights_only=True)
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = content["state_dict"][name] + 1
    torch.save(content, checkpoint)


def nothing(words: Sequence[str]) -> int:
    return 0


def test_each_stage_starts_from_the_one_before(whole):
    root, commands = whole
    assert commands == ALL
    first, second = (root / name / "iter_4.pth" for name in ("align", "tune"))
    meta = read_checkpoint(second).meta
    assert [parent["sha256"] for parent in meta["parents"]] == [sha256(first)]
    assert json.loads((root / STATE_FILE).read_text())["stages"] == {"align": sha256(first), "tune": sha256(second)}
    merged = read_manifest(root / "tune/merged")
    assert merged.llm.adapter is None and merged.llm.merged
    assert [(p["name"], p["sha256"]) for p in merged.parents] == [("tune", sha256(second)), ("align", sha256(first))]


def test_inspect_shows_the_chain_and_the_score(whole):
    root, _ = whole
    report = inspect_path(root / "tune/merged")
    assert [(parent["name"], parent["step"]) for parent in report.parents] == [("tune", 4), ("align", 4)]
    assert [parent["check"].status for parent in report.parents] == ["agrees", "agrees"]
    (score,) = report.scores
    assert score["folder"] == str(root / "tune/scores/mmbench_questions")
    assert score["score"] == pytest.approx(100 * scores(root)[0]["circular"]["Overall"]) and not report.problems
    assert not inspect_path(root / "tune/hf").scores  # the merged one was asked


def test_what_is_finished_is_not_repeated(work, copy):
    work.start(copy)
    assert work.commands == []


@pytest.mark.parametrize(
    ("lost", "again"),
    [
        ("tune/hf/projector/model.safetensors", ["pth_to_hf"]),
        ("tune/merged/tokenizer.json", ["merge"]),
        ("tune/scores/mmbench_questions/metrics.json", ["eval"]),
        (STATE_FILE, [*CONFIRMED, "eval"]),
    ],
)
def test_what_is_lost_is_made_again(work, whole, copy, lost, again):
    (copy / lost).unlink()
    work.start(copy)
    assert work.verbs == again and (copy / lost).is_file()
    assert same_weights(copy / "tune", whole[0] / "tune") and scores(copy) == scores(whole[0])


def test_a_damaged_state_costs_no_more_than_a_look(work, copy, capsys):
    (copy / STATE_FILE).write_text('{"stages": ')
    work.start(copy, execute=nothing)
    assert work.verbs == [*CONFIRMED, "eval"] and f"{copy / STATE_FILE} cannot be read" in capsys.readouterr().err


def test_other_data_are_scored_anew(work, copy):
    line = work.table.read_text()
    work.table.write_text(line.replace("Where is it, 0?", "Where was it, 0?"))
    try:
        work.start(copy, execute=nothing)
    finally:
        work.table.write_text(line)
    assert work.verbs == ["eval"]


def test_a_key_that_leaves_the_weights_alone_changes_nothing(work, copy):
    work.start(copy, "schedule.keep=5", "data.num_workers=1", execute=nothing)
    assert work.commands == []


def test_steps_that_are_cut_otherwise_are_the_same_steps(work, copy):
    """Half the processes with twice the accumulation, say."""
    work.start(copy, "schedule.batch_size=2", "schedule.accumulation=2", execute=nothing)
    assert work.commands == []


@pytest.mark.parametrize(
    ("override", "stage", "was", "now"),
    [
        ("schedule.accumulation=3", "Stage 1, align", "schedule.accumulation = ", "3"),
        ("1:schedule.lr=2e-2", "Stage 1, align", "schedule.lr = 0.01", "0.02"),
        ("tune:llm.lora.r=8", "Stage 2, tune", "llm.lora.r = 4", "8"),
        ("data.max_length=512", "Stage 1, align", "data.max_length = 2048", "512"),
    ],
)
def test_a_changed_recipe_is_refused_with_both_values(work, copy, override, stage, was, now):
    with pytest.raises(UsageError) as error:
        work.start(copy, override)
    assert all(text in str(error.value) for text in (stage, was, f"now says {now}", "--repeat"))
    assert work.commands == [] and not list(copy.glob("*_earlier_*"))


def test_repeat_trains_from_the_changed_stage_on_and_keeps_the_old(work, whole, copy):
    work.start(copy, "2:schedule.lr=2e-3", repeat=True)
    assert work.verbs == ALL[1:]
    assert same_weights(copy / "tune_earlier_1", whole[0] / "tune") and not same_weights(
        copy / "tune", whole[0] / "tune"
    )
    work.start(copy, "schedule.max_steps=2", repeat=True)
    assert work.verbs == ALL
    assert sorted(folder.name for folder in copy.glob("*_earlier_*")) == [
        "align_earlier_1", "tune_earlier_1", "tune_earlier_2",
    ]  # fmt: skip
    assert [parent["step"] for parent in read_manifest(copy / "tune/merged").parents] == [2, 2]


def test_a_replaced_checkpoint_of_an_earlier_stage_is_refused(work, copy):
    before = sha256(copy / "align/iter_4.pth")
    replace(copy / "align/iter_4.pth")
    now = sha256(copy / "align/iter_4.pth")
    with pytest.raises(UsageError, match=f"iter_4.pth .{before[:SHORT]}.; stage 1, align, now has .*{now[:SHORT]}"):
        work.start(copy)


def test_a_stage_before_that_is_gone_is_refused_then_trained(work, copy):
    shutil.rmtree(copy / "align")
    with pytest.raises(UsageError, match="stage 1, align, now has no checkpoint"):
        work.start(copy)
    work.start(copy, repeat=True)
    assert work.verbs == ALL and (copy / "tune_earlier_1/merged").is_dir()


def test_remote_code_is_trusted_where_the_recipe_says_so(work, copy):
    shutil.rmtree(copy / "tune/merged")
    (copy / "tune/scores/mmbench_questions/metrics.json").unlink()
    work.start(copy, "2:runtime.trust_remote_code=True", execute=nothing)
    assert work.verbs == ["merge", "eval"] and all("--trust-remote-code" in words for words in work.commands)


def test_a_replaced_checkpoint_of_the_last_stage_is_told_and_scored(work, copy, capsys):
    replace(copy / "tune/iter_4.pth")
    work.start(copy)
    assert work.verbs == ["train tune --resume", *ALL[2:]]
    assert "is not the checkpoint that this stage ended with" in capsys.readouterr().err
    assert read_manifest(copy / "tune/merged").parents[0]["sha256"] == sha256(copy / "tune/iter_4.pth")


def test_the_real_command_goes_on_and_ends_with_a_table(work, copy):
    """Only the conversion is left; `test_soak.py` takes the real command through whole."""
    shutil.rmtree(copy / "tune/hf")
    words = ["run", *work.configs, "--work-dir", str(copy), "--eval", f"mmbench:{work.table}"]
    command = [sys.executable, "-m", "vlmtool", *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0 and run.stderr.count("$ vlmtool ") == 1, run.stderr
    assert (copy / "tune/hf/vlmtool.json").is_file()
    table = run.stdout[run.stdout.index("last loss") :]
    losses = [json.loads((copy / name / "train_log.jsonl").read_text().splitlines()[-1])["loss"] for name in STAGES]
    assert all(f"{loss:.4f}" in table for loss in losses) and "CircularEval: 0.0" in table
    assert f"  {copy / 'tune'}\n" in re.sub(" +\n", "\n", table), "the folder stands unbroken in its line"
    assert f"vlmtool inspect {copy / 'tune/merged'}" in run.stdout


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class KilledAt(Hook):
    """Ends the run where the environment says so: before that many steps."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if os.environ.get("TEST_KILLED_AT") == f"{Path(runner.work_dir).name} {batch_idx}":
            raise Killed


def test_killed_in_each_stage_it_ends_as_if_unbroken(work, whole, tmp_path, monkeypatch):
    """Before the first checkpoint, after one, before each conversion and before the score."""
    hook = "mmengine=dict(custom_hooks=[dict(type='tests.pipeline.test_run.KilledAt')])"
    done = []
    for place in ("align 1", "align 3", "tune 0", "tune 3", "pth_to_hf", "merge", "eval", ""):
        monkeypatch.setenv("TEST_KILLED_AT", place)

        def execute(words, place=place):
            if place in words:
                raise Killed
            return in_process(words)

        try:
            work.start(tmp_path, hook, execute=execute)
        except Killed:
            done.append(work.verbs)
    assert done == [
        ["train align"], ["train align"], ["train align --resume", "train tune"], ["train tune"],
        ["train tune --resume", "pth_to_hf"], ["pth_to_hf", "merge"], ["merge", "eval"],
    ]  # fmt: skip
    assert work.verbs == ["eval"]
    assert same_weights(tmp_path / "align", whole[0] / "align") and same_weights(tmp_path / "tune", whole[0] / "tune")
    assert scores(tmp_path) == scores(whole[0])


def test_the_exit_code_of_a_command_is_that_of_the_pipeline(work, tmp_path, capsys):
    with pytest.raises(CommandFailed) as end:
        work.start(tmp_path, execute=lambda words: 143)
    assert end.value.code == 143 and work.verbs == ["train align"]
    assert "ended with exit code 143" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "2:llm.path=/nowhere"], "Stage 2, tune: llm.path: there is no folder '/nowhere'"),
        (["--set", "2:data.path=/nowhere.json"], "Stage 2, tune: data.path: there is no file '/nowhere.json'"),
        (["--set", "1:init_from=/nowhere"], "init_from: there is no '/nowhere'"),
        (["--eval", "mmbnch:x.tsv"], "Did you mean 'mmbench'?"),
        (["--eval", "mmbench:x.tsv"], "there is no 'x.tsv'"),
    ],
)
def test_a_typo_is_told_before_the_first_stage(work, tmp_path, capsys, words, said):
    assert invoke(app, ["run", *work.configs, "--work-dir", str(tmp_path / "root"), *words], debug=False) == 2
    message = capsys.readouterr().err
    assert said in message and len(message.splitlines()) <= 3
    assert not (tmp_path / "root").exists()


def test_a_folder_of_ones_own_is_not_written_over(work, tmp_path):
    (tmp_path / "tune/hf").mkdir(parents=True)
    (tmp_path / "tune/hf/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="notes.txt"):
        work.start(tmp_path)
    assert work.commands == []


@pytest.mark.parametrize("said", ["{whole}/align", "{whole}/align/iter_4.pth", "/not/there", "None"])
def test_a_later_stage_may_name_the_one_before(work, whole, copy, said):
    """Its folder, a run of the same recipe elsewhere, what is not there yet, or nothing."""
    work.start(copy, f"2:init_from={said.format(whole=whole[0])}", execute=nothing)
    assert work.commands == []


def test_a_later_stage_that_names_another_start_is_refused(work, whole, copy):
    other = whole[0] / "tune"
    with pytest.raises(UsageError, match=re.escape(f"starts from '{other}', which is not stage 1, align")):
        work.start(copy, f"2:init_from={other}")


def test_dry_run_shows_what_is_done_and_does_nothing(work, copy, capsys):
    def dry_run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = invoke(app, ["run", *work.configs, "--work-dir", str(copy), *words, "--dry-run"], debug=False)
        return code, "".join(capsys.readouterr().out.split())  # columns of a terminal break lines

    before = sorted(file for file in copy.rglob("*"))
    code, said = dry_run("--eval", f"mmbench:{work.table}")
    assert code == 0 and said.count("done") == 5 and "tobe" not in said
    code, said = dry_run("--set", "2:schedule.lr=2e-3", "--repeat")
    assert code == 0 and "tobetrainedagain:was" in said
    assert said.count("thistrainingcanrun") == 1
    assert sorted(file for file in copy.rglob("*")) == before


def test_deepspeed_is_for_every_stage(work, tmp_path, monkeypatch):
    def stop(pipeline: Pipeline, *_: object) -> None:
        words = [train_words(stage, None, has_checkpoint=False) for stage in pipeline.stages]
        assert all(line[-2:] == ["--set", "runtime.strategy='zero2'"] for line in words)
        raise CommandFailed(7)

    monkeypatch.setattr("vlmtool.pipeline.run.run_pipeline", stop)
    with pytest.raises(CommandFailed):
        invoke(app, ["run", *work.configs, "--work-dir", str(tmp_path), "--deepspeed", "zero2"], debug=False)
