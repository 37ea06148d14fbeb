"""What is looked at beside the steps can fail, be killed or be bad itself, and costs no checkpoint."""

import json
import shutil
import signal

import pytest

from tests.engine.command import command, start
from tests.engine.conftest import FINETUNE, log_rows
from tests.engine.kill_hook import KILL
from vlmtool.engine.hooks.samples import SamplesHook
from vlmtool.engine.hooks.trouble import BAD_SAMPLES_FILE
from vlmtool.engine.log import read_log
from vlmtool.engine.preflight import preflight
from vlmtool.models.checkpoint import last_checkpoint
from vlmtool.recipe.load import load_recipe
from vlmtool.utils.errors import DataError

KILLABLE = "mmengine=dict(custom_hooks=[dict(type='tests.engine.kill_hook.KillHook')])"


@pytest.fixture
def held_out(standins, tmp_path):
    """`held_out(200, empty, cut)`: a held-out file of so many records; the first ones have no turns, the next ones a
    picture whose second half is missing."""
    images = tmp_path / "images"
    shutil.copytree(standins.images, images)
    records = json.loads(standins.data.read_text())
    with_image = next(record for record in records if isinstance(record.get("image"), str))
    body = (images / with_image["image"]).read_bytes()
    (images / "cut.jpg").write_bytes(body[: len(body) // 2])

    def make(number: int, empty: int = 0, cut: int = 0) -> list[str]:
        bad = [{"id": f"empty-{n}", "conversations": []} for n in range(empty)]
        bad += [{**with_image, "id": f"cut-{n}", "image": "cut.jpg"} for n in range(cut)]
        good = [{**records[n % len(records)], "id": f"v{n}"} for n in range(number - len(bad))]
        file = tmp_path / "held_out.json"
        file.write_text(json.dumps(bad + good))
        return [f"data.val_path={str(file)!r}", f"data.image_folder={str(images)!r}"]

    return make


def test_a_cut_held_out_picture_loses_no_training(small, held_out, tmp_path):
    """Nothing else is saved in this run: schedule.save_every is not set."""
    done = start(command(small, tmp_path / "run", *held_out(8, cut=1), "schedule.max_steps=2"))
    assert done.returncode == 1 and "cut.jpg" in done.stderr
    assert last_checkpoint(tmp_path / "run") == tmp_path / "run" / "iter_2.pth"


def test_a_picture_of_a_sample_question_is_looked_at_before_the_run(small, held_out, tmp_path):
    for number, (name, told) in enumerate((("typo.jpg", "there is no such image"), ("cut.jpg", "cannot be read"))):
        question = f"data.sample_prompts=[dict(question='What?', image='{name}')]"
        folder = tmp_path / str(number)
        done = start(command(small, folder, held_out(8)[1], question))
        assert done.returncode == 2 and name in done.stderr and told in done.stderr, done.stderr
        assert not folder.exists()


def test_an_answer_that_fails_loses_no_training(run, tmp_path, monkeypatch):
    def fail(*_):
        raise DataError("The picture is gone.")

    monkeypatch.setattr(SamplesHook, "_ask", fail)
    with pytest.raises(DataError, match="gone"):
        run("run", "data.sample_prompts=[dict(question='What?')]")
    assert last_checkpoint(tmp_path / "run") == tmp_path / "run" / "iter_4.pth"


def test_what_a_kill_left_out_is_made_up_for(small, standins, tmp_path):
    """Killed in the validation of step 2, after its checkpoint; then in that of step 4, the last."""
    extra = [
        KILLABLE, "schedule.save_every=2", "schedule.val_every=2", f"data.val_path={str(standins.data)!r}",
        "data.sample_prompts=[dict(question='What?'), dict(question='Where?')]", "schedule.sample_every=2",
    ]  # fmt: skip
    whole, killed = (command(small, tmp_path / name, *extra) for name in ("whole", "killed"))
    assert start(whole).returncode == 0
    for number, resume in ((1, []), (2, ["--resume"])):
        done = start([*killed, *resume], **{KILL: f"validation {number} 0"})
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert start([*killed, "--resume"]).returncode == 0
    for log in ("val_log.jsonl", "samples.jsonl"):
        rows = [list(read_log(tmp_path / name / log)) for name in ("whole", "killed")]
        assert rows[0] == rows[1] and {row["step"] for row in rows[0]} == {2, 4}
    again = start([*killed, "--resume"])
    assert again.returncode == 0 and len(list(read_log(tmp_path / "killed" / "val_log.jsonl"))) == 2


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_bad_held_out_samples_are_listed(small, held_out, tmp_path, processes):
    extra = [
        *held_out(300, empty=1, cut=1), "data.on_bad_sample='skip'", "schedule.max_steps=2", "schedule.val_every=1",
        f"schedule.batch_size={4 // processes}", "schedule.save_every=1",
    ]  # fmt: skip
    words = command(small, tmp_path / "run", *extra)
    done = start(words, processes, 29711)
    assert done.returncode == 0, done.stderr
    done = start([*words, "--resume", "--set", "schedule.max_steps=3"], processes, 29712)
    assert done.returncode == 0, done.stderr
    rows = list(read_log(tmp_path / "run" / BAD_SAMPLES_FILE))
    assert [(row["id"], row["step"]) for row in rows] == [("empty-0", None), ("cut-0", 1)]
    assert all("held_out.json" in row["origin"] for row in rows)


def test_more_than_one_in_a_hundred_held_out_stops(run, held_out, tmp_path):
    with pytest.raises(DataError, match="3 of 200 held-out samples cannot be used, more than 1%"):
        run("early", *held_out(200, empty=3), "data.on_bad_sample='skip'")
    assert not list(read_log(tmp_path / "early" / "train_log.jsonl"))
    with pytest.raises(DataError, match="3 of 200 held-out samples"):
        run("late", *held_out(200, empty=1, cut=2), "data.on_bad_sample='skip'")
    assert last_checkpoint(tmp_path / "late") == tmp_path / "late" / "iter_4.pth"
    assert len(log_rows(tmp_path / "late")) == 4


@pytest.mark.parametrize(("in_training", "in_held_out", "level"), [(2, 2, "warning"), (3, 0, "error"), (0, 3, "error")])
def test_the_dry_run_counts_each_file_for_itself(small, standins, held_out, tmp_path, in_training, in_held_out, level):
    records = json.loads(standins.data.read_text())
    many = [{**records[n % len(records)], "id": f"t{n}"} for n in range(200)]
    many[:in_training] = [{"id": f"bad-{n}", "conversations": []} for n in range(in_training)]
    (tmp_path / "training.json").write_text(json.dumps(many))
    extra = [*held_out(200, empty=in_held_out), f"data.path={str(tmp_path / 'training.json')!r}"]
    recipe = load_recipe(FINETUNE, [*small, *extra, "data.on_bad_sample='skip'"])
    rows = {row.what: row.level for row in preflight(recipe, "x", tmp_path / "run").rows}
    assert rows["wrong form"] == level


def test_held_out_samples_are_told_of(run, held_out, capsys):
    run("run", *held_out(8))
    assert "Held out: 8 samples" in capsys.readouterr().err
