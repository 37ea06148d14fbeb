"""What a training survives, and how it ends where it cannot: signals, full disks, numbers that are none, bad data."""

import json
import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.engine.command import ROOT, command, environment, hook, start, wait_for_step
from tests.engine.conftest import FINETUNE, log_rows, losses
from tests.engine.kill_hook import KILL
from vlmtool.engine.build import build_runner
from vlmtool.engine.hooks.trouble import BAD_SAMPLES_FILE
from vlmtool.engine.log import LogFile, read_log
from vlmtool.engine.loop import SKIPPED_FILE
from vlmtool.models.checkpoint import last_checkpoint, read_checkpoint
from vlmtool.recipe.load import load_recipe
from vlmtool.utils.errors import CheckpointError, DataError, UsageError, VlmtoolError

MOODY = ["projector.type='tests.engine.faults.MoodyProjector'", "data.sampler='random'"]  # images in every step


@pytest.mark.parametrize(
    ("number", "processes", "workers"),
    [
        (signal.SIGTERM, 1, 1),
        (signal.SIGUSR1, 2, 1),
        pytest.param(signal.SIGTERM, 2, 0, marks=pytest.mark.soak),
    ],
)
def test_a_signal_saves_and_stops(small, tmp_path, number, processes, workers):
    extra = ["schedule.max_steps=100000", f"schedule.batch_size={4 // processes}", f"data.num_workers={workers}"]
    words = command(small, tmp_path, *extra)
    run = subprocess.Popen(
        words, env=environment(processes, 29650 + number), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for_step(tmp_path / "train_log.jsonl", 3, run)
    if workers:
        os.killpg(run.pid, number)  # as a cluster does: every process gets it, the data loader's workers too
    else:
        run.send_signal(number)  # the launcher alone
    said = run.communicate(timeout=300)[1]
    assert run.returncode == 128 + number, said
    newest = last_checkpoint(tmp_path)
    assert newest is not None and str(newest) in said and "--resume" in said and "Traceback" not in said
    step = read_checkpoint(newest).meta["step"]
    assert step == max(log_rows(tmp_path))
    done = subprocess.run(
        [*words, "--set", f"schedule.max_steps={step + 2}", "--resume"],
        env=environment(processes, 29680 + number), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(log_rows(tmp_path)) == list(range(1, step + 3))


@pytest.mark.parametrize("policy", ["continue", "stop"])
def test_a_disk_that_fills_up(small, tmp_path, policy):
    """The run folder lies on a small file system of its own, which something else fills once iter_6 is there."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount name space")
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    extra = ["schedule.save_every=3", "schedule.save_epochs=False", "schedule.max_steps=30"]
    script = f"""
        mount -t tmpfs -o size=12m tmpfs {disk} || exit 99
        (until [ -e {disk}/run/iter_6.pth ] || ! kill -0 $$; do sleep 0.02; done
         head -c 20m /dev/zero > {disk}/filler) 2> /dev/null &
        "$@"; status=$?
        cp -a {disk}/run {copy}; exit $status
    """
    words = command(small, disk / "run", *extra, f"runtime.on_save_error='{policy}'")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *words],
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "No space left on device; 0 MiB are free" in done.stderr
    assert ("The run goes on" in done.stderr) == (policy == "continue")
    assert "Traceback" not in done.stderr
    newest = last_checkpoint(copy)
    assert newest is not None and 6 <= (step := read_checkpoint(newest).meta["step"]) < 28
    assert not [file for file in copy.iterdir() if ".tmp" in file.name]
    words = command(small, copy, *extra, f"schedule.max_steps={step + 1}")
    done = subprocess.run([*words, "--resume"], env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert read_checkpoint(last_checkpoint(copy)).meta["step"] == step + 1


def test_a_folder_that_cannot_be_written_to(small, tmp_path):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount name space")
    script = f'mount -t tmpfs -o ro tmpfs {tmp_path} && "$@"'
    words = ["unshare", "-rm", "sh", "-c", script, "sh", *command(small, tmp_path / "run")]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert "--work-dir" in done.stderr and len(done.stderr.strip().splitlines()) <= 3


def test_a_step_without_numbers_is_skipped(run):
    folder = run("moody", *MOODY, "projector.forward_at=[2]", "projector.backward_at=[4]", "schedule.max_steps=6")
    rows = log_rows(folder)
    assert [step for step in rows if rows[step]["skipped"]] == [2, 4]
    assert rows[2]["loss"] is None and math.isfinite(rows[4]["loss"]) and rows[4]["grad_norm"] is None
    assert all(math.isfinite(rows[step]["loss"]) for step in (1, 3, 5, 6))
    skipped = list(read_log(folder / SKIPPED_FILE))
    assert [row["step"] for row in skipped] == [2, 4] and all(len(row["samples"]) == 4 for row in skipped)
    for log in folder.glob("*.jsonl"):
        for line in log.read_text().splitlines():
            json.loads(line, parse_constant=pytest.fail)  # NaN, Infinity: words that no other reader knows
    weights = read_checkpoint(last_checkpoint(folder)).state_dict
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


def test_a_skipped_step_changes_no_weight(run):
    whole = run("whole", MOODY[1], "schedule.max_steps=3")
    moody = run("moody", *MOODY, "projector.forward_at=[3]", "schedule.max_steps=3", "schedule.save_every=2")
    before, after = (read_checkpoint(moody / f"iter_{step}.pth").state_dict for step in (2, 3))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert losses(whole)[:2] == losses(moody)[:2]


def test_a_loss_that_explodes_is_skipped_and_then_stops(run, tmp_path):
    with pytest.raises(VlmtoolError, match=r"3 steps in a row.*\n.*schedule.lr") as stop:
        run("exploding", "schedule.max_loss=0.01", "schedule.max_skipped=3", "schedule.max_steps=9")
    assert SKIPPED_FILE in str(stop.value)
    rows = list(read_log(tmp_path / "exploding" / SKIPPED_FILE))
    assert [row["step"] for row in rows] == [1, 2, 3] and all(row["samples"] for row in rows)


def test_counting_skipped_steps_goes_on_after_a_resume(run, tmp_path):
    run("two", "schedule.max_loss=0.01", "schedule.max_skipped=3", "schedule.max_steps=2")
    with pytest.raises(VlmtoolError, match="3 steps in a row, up to step 3"):
        run("two", "schedule.max_loss=0.01", "schedule.max_skipped=3", "schedule.max_steps=4", resume=True)


@pytest.fixture
def spoilt(standins, tmp_path) -> list[str]:
    """400 records; the picture of two of them has a header and no body, one record has no turns."""
    records = json.loads(standins.data.read_text())
    shutil.copytree(standins.images, tmp_path / "images")
    with_image = next(record for record in records if isinstance(record.get("image"), str))
    picture = tmp_path / "images" / "cut.jpg"
    body = (tmp_path / "images" / with_image["image"]).read_bytes()
    picture.write_bytes(body[: len(body) // 2])
    many = [{**records[number % len(records)], "id": f"r{number}"} for number in range(400)]
    many[5] = {**with_image, "id": "cut-1", "image": "cut.jpg"}
    many[250] = {**with_image, "id": "cut-2", "image": "cut.jpg"}
    many[9] = {"id": "empty", "conversations": []}
    (tmp_path / "data.json").write_text(json.dumps(many))
    return [f"data.path={str(tmp_path / 'data.json')!r}", f"data.image_folder={str(tmp_path / 'images')!r}"]


def test_bad_samples_stop_unless_told_otherwise(run, spoilt):
    with pytest.raises(DataError, match="'empty'"):
        run("stops", *spoilt)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_samples_are_skipped_and_listed(run, spoilt, workers):
    extra = ["data.on_bad_sample='skip'", "schedule.max_steps=100", f"data.num_workers={workers}"]
    folder = run("skips", *spoilt, *extra)
    rows = {row["id"]: row for row in read_log(folder / BAD_SAMPLES_FILE)}
    assert set(rows) == {"empty", "cut-1", "cut-2"}
    assert rows["empty"]["step"] is None and "conversations" in rows["empty"]["reason"]
    assert rows["cut-1"]["step"] >= 1 and "cut.jpg" in rows["cut-1"]["reason"]
    assert rows["cut-1"]["origin"].endswith("record 6")


def test_more_than_one_in_a_hundred_stops(run, spoilt, tmp_path):
    records = json.loads((tmp_path / "data.json").read_text())
    for number in (20, 21):
        records[number] = {"id": f"odd-{number}", "conversations": "none"}
    (tmp_path / "data.json").write_text(json.dumps(records))
    with pytest.raises(DataError, match=r"5 of 400 samples cannot be used, more than 1%"):
        run("stops", *spoilt, "data.on_bad_sample='skip'", "schedule.max_steps=100")
    assert len(list(read_log(tmp_path / "stops" / BAD_SAMPLES_FILE))) == 5


def test_a_dead_rank_is_named_and_the_run_can_go_on(small, tmp_path):
    extra = ["schedule.batch_size=2", "schedule.save_every=2", "schedule.max_steps=6"]
    hook = "mmengine=dict(custom_hooks=[dict(type='tests.engine.kill_hook.KillHook')])"
    words = command(small, tmp_path, *extra, hook)
    run = subprocess.Popen(words, env=environment(2, 29645, **{KILL: "step 4 1"}), stderr=subprocess.PIPE, text=True)
    wait_for_step(tmp_path / "train_log.jsonl", 3, run)
    began = time.monotonic()
    said = run.communicate(timeout=300)[1]
    assert run.returncode == 1 and time.monotonic() - began < 30
    errors = [line for line in said.splitlines() if line.startswith("Error")]
    assert errors == [next(line for line in errors if line.startswith("Error: rank 1: was killed by SIGKILL"))]
    done = subprocess.run([*words, "--resume"], env=environment(2, 29646), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and sorted(log_rows(tmp_path)) == [1, 2, 3, 4, 5, 6], done.stderr


def test_a_ranks_own_error_comes_first(small, spoilt, tmp_path):
    words = command(small, tmp_path / "run", *spoilt, "schedule.batch_size=2", "schedule.max_steps=100")
    records = json.loads((tmp_path / "data.json").read_text())
    records[9] = records[10]
    (tmp_path / "data.json").write_text(json.dumps(records))
    done = subprocess.run(words, env=environment(2, 29647), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1 and "cut.jpg" in errors[0] and errors[0].startswith("Error: rank "), done.stderr


def test_a_hanging_rank_is_named(small, tmp_path):
    hook = "mmengine=dict(custom_hooks=[dict(type='tests.engine.faults.HangHook', step=2)])"
    extra = ["runtime.hang_timeout=4.0", "schedule.batch_size=2", "schedule.max_steps=6", hook]
    done = subprocess.run(
        command(small, tmp_path, *extra), env=environment(2, 29648), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    error = next(line for line in done.stderr.splitlines() if line.startswith("Error"))
    assert "rank 1 (step 2" in error and "hangs" in error and "rank 0 (step 3, counting tokens)" in error
    assert (
        "time.sleep" in (tmp_path / "hang_rank1.txt").read_text()
        or "before_train_iter" in (tmp_path / "hang_rank1.txt").read_text()
    )


def test_a_rank_may_prepare_for_long(small, tmp_path):
    """Longer than the time after which a rank counts as hanging: that only counts while training."""
    hook = "mmengine=dict(custom_hooks=[dict(type='tests.engine.faults.BusyHook')])"
    extra = ["runtime.hang_timeout=2.0", "schedule.batch_size=2", hook]
    done = subprocess.run(
        command(small, tmp_path, *extra), env=environment(2, 29649), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("hangs", [pytest.param(False, marks=pytest.mark.soak), True])
def test_a_full_disk_neither_ends_the_watch_nor_blinds_it(small, tmp_path, hangs):
    """No sign can be written from step 2 on: a run that moves goes on, one that hangs still ends."""
    hooks = ["dict(type='tests.engine.faults.BlindWatchHook')"]
    hooks += ["dict(type='tests.engine.faults.HangHook', step=4)"] * hangs
    extra = ["runtime.hang_timeout=3.0", "schedule.batch_size=2", "schedule.max_steps=10"]
    words = command(small, tmp_path, *extra, f"mmengine=dict(custom_hooks=[{', '.join(hooks)}])")
    done = start(words, 2, 29721 + hangs)
    assert done.returncode == int(hangs), done.stderr
    assert "cannot be written to: No space left on device. The run goes on." in done.stderr
    assert "Traceback" not in done.stderr
    assert ("No sign of life for 3 s" in done.stderr) == hangs


def test_the_signs_of_a_killed_run_name_nobody(small, tmp_path):
    """Rank 1 never begins; what it said in a run before is not taken for its word."""
    (tmp_path / ".watch").mkdir()
    for number in (0, 1):
        sign = {"count": 900, "step": 80, "phase": "forward pass"}
        (tmp_path / ".watch" / f"rank{number}.json").write_text(json.dumps(sign))
    extra = ["runtime.hang_timeout=3.0", "schedule.batch_size=2", hook("NeverBeginsHook")]
    done = start(command(small, tmp_path, *extra), 2, 29723)
    assert done.returncode == 1
    error = next(line for line in done.stderr.splitlines() if line.startswith("Error"))
    assert "rank 1 (not begun) hangs; the others wait: rank 0 (step 1" in error


def test_a_last_save_that_fails_is_told_though_a_signal_asked_for_it(small, tmp_path):
    extra = ["schedule.batch_size=2", "schedule.max_steps=100000", hook("FullDiskHook")]
    run = subprocess.Popen(
        command(small, tmp_path, *extra), env=environment(2, 29724), stderr=subprocess.PIPE, text=True
    )
    wait_for_step(tmp_path / "train_log.jsonl", 2, run)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=300)[1]
    assert run.returncode == 1 and "could not be written: No space left on device" in said, said
    assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize("rank", [pytest.param("0", marks=pytest.mark.soak), "1"])
def test_a_signal_to_one_process_ends_the_run_as_that_signal(small, tmp_path, rank):
    extra = ["schedule.batch_size=2", "schedule.max_steps=100000"]
    run = subprocess.Popen(
        command(small, tmp_path, *extra), env=environment(2, 29725 + int(rank)), stderr=subprocess.PIPE, text=True
    )
    wait_for_step(tmp_path / "train_log.jsonl", 2, run)
    process = next(c for c in psutil.Process(run.pid).children() if c.environ().get("RANK") == rank)
    process.send_signal(signal.SIGUSR1)
    said = run.communicate(timeout=300)[1]
    assert run.returncode == 128 + signal.SIGUSR1, said
    newest = last_checkpoint(tmp_path)
    assert newest is not None and str(newest) in said and "memory" not in said


def test_a_run_is_not_overwritten(run):
    run("once")
    with pytest.raises(UsageError, match=r"holds a run already, up to iter_4.pth.\n.*--resume"):
        run("once")


def test_a_truncated_checkpoint_is_told(run, tmp_path):
    folder = run("once", "schedule.save_every=2")
    newest = folder / "iter_4.pth"
    newest.write_bytes(newest.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged.*\n.*the checkpoint before"):
        run("once", "schedule.max_steps=5", resume=True)
    run("once", "schedule.max_steps=5", resume_from=folder / "iter_2.pth")


def test_a_save_under_the_same_name_is_whole_or_not_at_all(run, small, monkeypatch):
    """Killed between the two halves of a second save, the first one still resumes."""
    folder = run("once", "schedule.max_steps=2")
    halves = []
    recipe = load_recipe(FINETUNE, [*small, "schedule.max_steps=3"])
    again = build_runner(recipe, "again", folder, resume_from=folder / "iter_2.pth").runner
    monkeypatch.setattr(again.train_loop, "run", lambda: again.save_checkpoint(str(folder), "iter_2.pth"))

    def replace(source, target, real=os.replace):
        halves.append(Path(target).name)
        if Path(target).name == "iter_2.pth":
            raise KeyboardInterrupt  # nothing is tidied up, as after a kill
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            again.train()
    assert halves[-3:] == [".iter_2.state.old", "iter_2.state", "iter_2.pth"]
    run("once", "schedule.max_steps=3", resume=True)
    assert read_checkpoint(last_checkpoint(folder)).meta["step"] == 3


def test_a_log_survives_a_cut_line(tmp_path):
    file = tmp_path / "log.jsonl"
    LogFile(file).append({"step": 1})
    with open(file, "a") as log:
        log.write('{"step": 2, "lo')
    LogFile(file).append({"step": 3})
    assert list(read_log(file)) == [{"step": 1}, {"step": 3}]
