"""`vlmtool run` as a real command: killed with all its processes in each stage, it ends as an unbroken run."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.pipeline.test_run import same_weights, scores
from vlmtool.engine.log import read_log

ROOT = Path(__file__).parents[2]
DEMO = ["demo_pretrain", "demo_finetune"]


def start(words: Sequence[object], cwd: Path = ROOT, **more: str) -> "subprocess.Popen[str]":
    """`vlmtool run WORDS`."""
    return subprocess.Popen(
        [sys.executable, "-m", "vlmtool", "run", *map(str, words)], text=True, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **more}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(words: Sequence[object], cwd: Path = ROOT, **more: str) -> str:
    run = start(words, cwd, **more)
    said, _ = run.communicate(timeout=1800)
    assert run.returncode == 0, said[-3000:]
    return said


def wait_for(log: Path, step: int, run: "subprocess.Popen[str]") -> None:
    while not any(row["step"] >= step for row in read_log(log)):
        assert run.poll() is None, run.communicate()[0][-3000:]
        time.sleep(0.05)


def kill_at(log: Path, step: int, words: Sequence[object], cwd: Path = ROOT, **more: str) -> None:
    """SIGKILL to the command and to every process it started, once the log has that step."""
    run = start(words, cwd, **more)
    try:
        wait_for(log, step, run)
    finally:
        every = [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]
        for process in every:
            process.suspend()  # so that none sees another one go
        for process in every:
            process.kill()
    run.communicate()


@pytest.mark.soak
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_in_each_stage(work, tmp_path, processes):
    more = {"OMP_NUM_THREADS": "1"} | ({"NPROC_PER_NODE": "2", "PORT": "29810"} if processes > 1 else {})
    slow = ["--set", "schedule.max_steps=400", "--set", "schedule.save_every=20", "--set", "schedule.batch_size=2"]
    words = [*work.configs, *slow, "--eval", f"mmbench:{work.table}"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish([*words, "--work-dir", whole], **more)
    words += ["--work-dir", killed]
    kill_at(killed / "align/train_log.jsonl", 50, words, **more)
    kill_at(killed / "tune/train_log.jsonl", 50, words, **more)
    assert (killed / "align/iter_400.pth").is_file() and not (killed / "tune/iter_400.pth").exists()
    said = finish(words, **more)
    assert "goes on from iter_" in said and "done: iter_400.pth" in said
    assert same_weights(killed / "align", whole / "align") and same_weights(killed / "tune", whole / "tune")
    assert scores(killed) == scores(whole)


@pytest.mark.soak
def test_sigterm_saves_and_the_same_command_goes_on(work, tmp_path):
    words = [*work.configs, "--work-dir", tmp_path, "--set", "schedule.max_steps=400"]
    run = start(words)
    wait_for(tmp_path / "align/train_log.jsonl", 3, run)
    run.terminate()
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 143 and "Stopped by a signal" in said and "Traceback" not in said, said
    done = finish(words)
    assert "Going on from" in done and (tmp_path / "tune/merged/vlmtool.json").is_file()


@pytest.mark.soak
def test_a_training_whose_pipeline_is_killed_saves_itself(work, tmp_path):
    words = [*work.configs, "--work-dir", tmp_path, "--set", "schedule.max_steps=100000"]
    run = start(words)
    wait_for(tmp_path / "align/train_log.jsonl", 3, run)
    run.kill()
    said, _ = run.communicate(timeout=300)  # the pipe closes when the training has ended too
    assert "is gone" in said and "Stopped by a signal" in said, said


@pytest.mark.soak
def test_the_demo_pair(tmp_path):
    """Full size, with the data where the recipes look for them."""
    data = [sys.executable, "-m", "vlmtool.demo.data", "work_dirs/demo/data", "--seed", "0"]
    subprocess.run(data, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=600)
    words = [*DEMO, "--eval", "mmbench:work_dirs/demo/data/mmbench.tsv", "--set", "schedule.save_every=100"]
    finish([*words, "--work-dir", "whole"], tmp_path)
    words += ["--work-dir", "killed"]
    kill_at(tmp_path / "killed/demo_pretrain/train_log.jsonl", 200, words, tmp_path)
    kill_at(tmp_path / "killed/demo_finetune/train_log.jsonl", 300, words, tmp_path)
    finish(words, tmp_path)
    whole, killed = (
        json.loads((tmp_path / name / "demo_finetune/scores/mmbench_mmbench/metrics.json").read_text())["scores"]
        for name in ("whole", "killed")
    )
    assert killed == whole and whole["circular"]["Overall"] > 0.9
    for stage in DEMO:
        assert same_weights(tmp_path / "killed" / stage, tmp_path / "whole" / stage)
