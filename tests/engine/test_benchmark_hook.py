"""Benchmarks during training: the scores are those of the converted checkpoint, and the best weights are kept."""

import json

import pytest
import torch

from tests.engine.command import command, start
from tests.evaluation import conftest as tables
from vlmtool.chat.generator import GenerationSettings
from vlmtool.chat.load import load_chat_model
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.engine.hooks.benchmark import BEST, LOG_FILE, best_score, put_beside
from vlmtool.engine.log import read_log
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.run import answer_all
from vlmtool.models.checkpoint import read_checkpoint

write_table = tables.write_table


@pytest.fixture
def table(write_table):
    """Questions whose answers noise gives now and then: the options are single letters."""
    options = {"A": "a", "B": "e", "C": "i"}
    rows = [{**options, "index": str(n), "question": f"Letter {n}?", "answer": "ABC"[n % 3]} for n in range(24)]
    return write_table(*rows)


def test_scores_are_logged_and_the_best_weights_kept(small, table, tmp_path):
    schedule = [f"schedule.eval=['mmbench:{table}']", "schedule.eval_every=1", "schedule.keep=1", "schedule.lr=0.01"]
    words = command(small, tmp_path / "run", *schedule)
    done = start(words)
    assert done.returncode == 0, done.stderr
    rows = list(read_log(tmp_path / "run" / LOG_FILE))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    best = max(rows, key=lambda row: row["score"])  # the first of equal ones
    assert read_checkpoint(tmp_path / "run" / BEST).meta["step"] == best["step"]
    assert f"step {best['step']}" in done.stderr and f"kept as {BEST}" in done.stderr
    # The same weights, converted and loaded as a user's model.
    pth_to_hf(None, tmp_path / "run" / "iter_4.pth", tmp_path / "hf")
    benchmark = MMBench(table)
    answers = answer_all(
        benchmark, load_chat_model(str(tmp_path / "hf")), GenerationSettings(max_new_tokens=100), tmp_path / "own"
    )
    during = tmp_path / "run" / "eval" / "iter_4" / "0_mmbench" / "predictions.jsonl"
    assert {e["index"]: e["prediction"] for e in map(json.loads, during.read_bytes().splitlines())} == answers
    headline = benchmark.score(answers).headline
    assert headline is not None and rows[-1]["score"] == pytest.approx(headline[1])


def test_two_processes_share_the_questions(small, table, tmp_path):
    schedule = [f"schedule.eval=['mmbench:{table}']", "schedule.max_steps=2", "schedule.batch_size=1"]
    schedule += ["schedule.accumulation=2"]
    for processes in (1, 2):
        accumulation = f"schedule.accumulation={4 // processes}"
        done = start(command(small, tmp_path / str(processes), *schedule, accumulation), processes, 29617)
        assert done.returncode == 0, done.stderr
    one, two = (list(read_log(tmp_path / name / LOG_FILE)) for name in ("1", "2"))
    assert [row["step"] for row in two] == [2] and one == two
    folder = tmp_path / "2" / "eval" / "iter_2" / "0_mmbench"
    assert len((folder / "predictions.jsonl").read_bytes().splitlines()) == 24


@pytest.mark.parametrize(
    ("entry", "message"),
    [("mmbench:nowhere.tsv", "there is no 'nowhere.tsv'"), ("mmbanch:.", "Did you mean 'mmbench'"), ("x", "eval")],
)
def test_what_cannot_be_scored_is_told_before_the_first_step(small, tmp_path, entry, message):
    done = start(command(small, tmp_path / "run", f"schedule.eval=['{entry}']"))
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not (tmp_path / "run" / "train_log.jsonl").exists()


def test_the_best_so_far_leaves_out_steps_that_are_run_again(tmp_path):
    rows = [{"step": 2, "benchmark": "a", "score": 3.0}, {"step": 4, "benchmark": "a", "score": 9.0}]
    rows += [{"step": 2, "benchmark": "b", "score": 8.0}]
    (tmp_path / LOG_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert best_score(tmp_path, "a", before=4) == 3
    assert best_score(tmp_path, "a", before=2) == float("-inf")


def test_a_second_name_outlives_the_first(tmp_path):
    for step in (1, 2):
        source = tmp_path / f"iter_{step}.pth"
        torch.save({"step": step}, source)
        put_beside(source, tmp_path / BEST)
        source.unlink()
        assert torch.load(tmp_path / BEST, weights_only=True) == {"step": step}
    assert [path.name for path in tmp_path.iterdir()] == [BEST]
