"""Benchmarks whose trainings take turns: only one of them runs at a time, and waiting counts for nothing."""

import json
import shlex
import socket
import sys
import threading
from pathlib import Path

import pytest

from vlmtool.engine.loop import StepResult

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("turns"), __import__("meter"), __import__("peers")
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def test_trainings_take_turns_and_waiting_is_not_counted(benchmarks, tmp_path, monkeypatch):
    turns, meter, _ = benchmarks
    server = socket.create_server(("127.0.0.1", 0))
    steps: list[str] = []
    monkeypatch.setattr(meter, "_now", lambda: (float(len(steps)), 0.0))  # a clock that ticks with each step of any

    def train(name: str) -> None:
        told = {"port": server.getsockname()[1], "name": name, "stride": 2}
        hook = meter.Meter(str(tmp_path / f"{name}.json"), 1, told)
        hook.before_train(None)
        for step in range(5):
            hook.before_train_iter(None, step)
            steps.append(name)
            hook.after_train_iter(None, step, outputs=StepResult(1.0, 1.0, 3, 10, 4, 0.0, 1.0))
        hook.after_train(None)

    threads = [threading.Thread(target=train, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    askers = [server.accept()[0].makefile("rw") for _ in threads]
    groups = {asker.readline().strip(): turns.Group([asker], []) for asker in askers}
    turns.grant([groups["a"], groups["b"]])
    for thread in threads:
        thread.join()
    server.close()
    assert "".join(steps) == "aabbaabbab"
    for name in "ab":
        figures = json.loads((tmp_path / f"{name}.json").read_text())
        assert figures["seconds"] == [1.0] * 5
        assert (figures["samples"], figures["samples_per_s"]) == (20, 4.0)


TRAINS = """
import json, pathlib, sys, time
import torch
shared, steps, letters = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
time.perf_counter = lambda: float(shared.stat().st_size)  # a clock that ticks with each letter of any
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
for step in range(steps):
    with shared.open("a") as file:
        file.write(letters)
    optimizer.step()
print("TIMING", json.dumps({"peak_rss_mb": 5, "first_loss": [2.0], "last_loss": [1.0], "work": {"sup": 7}}))
"""


def test_other_trainers_take_turns_and_stand_beside_the_base(benchmarks, tmp_path, capsys):
    _, _, peers = benchmarks
    script, shared, file = tmp_path / "trains.py", tmp_path / "steps", tmp_path / "peers.json"
    script.write_text(TRAINS)
    shared.touch()
    start = f"{shlex.quote(sys.executable)} {{stopwatch}} {shlex.quote(str(script))} {shlex.quote(str(shared))}"
    commands = {
        "first, of us": f"{start} {{steps}} a",
        "half as fast": f"{start} {{steps}} bb",
        "stops too early": f"{start} 3 c",
        "cannot start": f"{start} none d",
    }
    file.write_text(json.dumps(commands))
    work = peers.Work(tmp_path, steps=6, warmup=2, batch_size=4)
    others = peers.of_file(file, work, tmp_path, None)
    found = peers.compare({"packed": others.pop("first, of us")}, others, tmp_path, stride=2)
    said = capsys.readouterr().err
    assert "stops too early gave no figures" in said and "ValueError: invalid literal" in said
    assert shared.read_text()[4:] == "abbcaabbbbcaabbbb"  # the first steps wait for nobody
    assert list(found) == ["vlmtool, packed", "half as fast"]
    ours, other = found.values()
    assert ours["seconds"][1:] == (1.0,) * 5 and other["seconds"][1:] == (2.0,) * 5
    assert (ours["samples_per_s"], other["samples_per_s"]) == (4.0, 2.0)
    assert peers.times_as_fast(ours, other) == [2.0, 2.0]
    row = peers.table(found)[-1]
    assert row.startswith("| half as fast | 2 | 2.00 | 2.00 2.00 | ") and row.endswith(" | 5 | 7 | 2.0000 → 1.0000 |")


def test_the_first_epoch_and_the_first_step_of_each_do_not_count(benchmarks):
    _, _, peers = benchmarks
    assert peers.by_epoch(list(range(9)), 3) == [[4, 5], [7, 8]]
