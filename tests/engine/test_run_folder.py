"""One run at a time in a folder, and nothing of an earlier one mixed into it."""

import json
import shutil
import signal
import subprocess

import pytest

from tests.engine.command import command, environment, start, wait_for_step
from tests.engine.conftest import log_rows, losses
from vlmtool.engine.run_folder import sweep
from vlmtool.models.checkpoint import last_checkpoint
from vlmtool.utils.errors import UsageError

# And without a checkpoint.
ENDLESS = ("schedule.max_steps=100000", "schedule.save_every=None", "schedule.save_epochs=False")


@pytest.mark.parametrize("more", [[], pytest.param(["--resume"], marks=pytest.mark.soak)])
def test_a_second_run_is_refused_while_one_writes(small, tmp_path, more):
    """No checkpoint is there yet, so that only the lock tells."""
    words = command(small, tmp_path, *ENDLESS, "data.num_workers=1")
    run = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        wait_for_step(tmp_path / "train_log.jsonl", 1, run)
        second = start([*words, *more])
        assert second.returncode == 2 and f"process {run.pid} on " in second.stderr, second.stderr
        assert len(second.stderr.strip().splitlines()) <= 3
    finally:
        run.kill()  # its data loader's worker lives on for some seconds, and must not hold the folder
        run.communicate(timeout=60)
    done = start(command(small, tmp_path, "schedule.max_steps=2", "data.num_workers=1"))
    assert done.returncode == 0, done.stderr


def test_two_processes_lock_a_folder_once(small, tmp_path):
    words = command(small, tmp_path, "schedule.batch_size=2", *ENDLESS)
    run = subprocess.Popen(words, env=environment(2, 29701), stderr=subprocess.PIPE, text=True)
    try:
        wait_for_step(tmp_path / "train_log.jsonl", 1, run)
        second = start(words, 2, 29702)
        assert second.returncode == 2 and "another run is writing there" in second.stderr, second.stderr
    finally:
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=120)[1]
    assert run.returncode == 143, said


def test_the_log_of_a_run_that_saved_nothing_is_kept_apart(run, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "train_log.jsonl").write_text('{"step": 1, "loss": 9.0}\n{"step": 7, "loss": 9.0}\n')
    run("run")
    assert "kept in" in capsys.readouterr().err
    assert sorted(log_rows(folder)) == [1, 2, 3, 4]
    assert [row["loss"] for row in log_rows(folder / "earlier_1").values()] == [9.0, 9.0]


def test_only_what_runs_leave_half_written_is_swept_away(tmp_path):
    left = [".iter_8.pth.tmp", ".iter_8.state.tmp", ".epoch_1.pth.tmp", ".last_checkpoint.tmp12", ".recipe.py.tmp12"]
    kept = [".hf.tmp999", ".iter_8.state.old", ".iter_8.tmp99", "iter_8.pth", "notes.tmp"]
    for name in [*left, *kept]:
        (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(kept)


def test_a_conversion_in_the_run_folder_is_left_alone(run, tmp_path):
    (tmp_path / "run" / ".hf.tmp999").mkdir(parents=True)
    assert (run("run") / ".hf.tmp999").is_dir()


def test_checkpoints_of_a_future_that_is_left_do_not_count(run, capsys):
    extra = ("schedule.save_epochs=False", "schedule.keep=2")
    folder = run("run", *extra, "schedule.save_every=2", "schedule.max_steps=6", "schedule.decay='constant'")
    assert sorted(f.name for f in folder.glob("*.pth")) == ["iter_4.pth", "iter_6.pth"]
    back = ("schedule.save_every=1", "schedule.max_steps=5", "schedule.lr=1e-3")
    run("run", *extra, *back, resume_from=folder / "iter_4.pth")
    assert "iter_6.pth: from after step 4" in capsys.readouterr().err
    assert sorted(f.name for f in folder.glob("*.pth")) == ["iter_4.pth", "iter_5.pth"]
    assert sorted(f.name for f in folder.glob("*.state")) == ["iter_4.state", "iter_5.state"]
    assert sorted(f.name for f in (folder / "earlier_1").iterdir()) == ["iter_6.pth", "iter_6.state"]
    assert last_checkpoint(folder).name == "iter_5.pth"


def test_a_run_that_went_back_and_was_killed_goes_on_from_there(run, tmp_path, monkeypatch):
    folder = run("run", "schedule.save_every=2", "schedule.max_steps=6")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vlmtool.engine.loop.StepLoop.step", killed)
        with pytest.raises(KeyboardInterrupt):
            run("run", "schedule.max_steps=6", resume_from=folder / "iter_4.pth")
    assert last_checkpoint(folder) == folder / "iter_4.pth"
    before = losses(folder)
    run("run", "schedule.max_steps=6", resume=True)
    assert losses(folder) == before


def test_a_run_from_elsewhere_does_not_go_into_the_folder_of_another(run, tmp_path):
    first, other = run("first"), run("other")
    with pytest.raises(UsageError, match="holds a run already"):
        run("other", "schedule.max_steps=6", resume_from=first / "iter_4.pth")
    shutil.rmtree(other)
    run("other", "schedule.max_steps=6", resume_from=first / "iter_4.pth")
    assert sorted(log_rows(other)) == [5, 6]


def test_rank_alone_is_no_process_of_several(small, tmp_path):
    """Kubeflow sets RANK for a machine; LOCAL_RANK comes with it where torchrun starts the processes."""
    done = start(command(small, tmp_path, "schedule.max_steps=2"), RANK="1", WORLD_SIZE="2")
    assert done.returncode == 0, done.stderr
    assert last_checkpoint(tmp_path) == tmp_path / "iter_2.pth"
    assert [json.loads(line)["step"] for line in (tmp_path / "train_log.jsonl").read_text().splitlines()] == [1, 2]
