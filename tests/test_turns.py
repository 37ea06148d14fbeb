"""Benchmarks whose trainings take turns: only one of them runs at a time, and waiting counts for nothing."""

import json
import socket
import sys
import threading
from pathlib import Path

import pytest

from vlmtool.engine.loop import StepResult

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("turns"), __import__("meter")
    for name in ("turns", "meter"):
        sys.modules.pop(name, None)


def test_trainings_take_turns_and_waiting_is_not_counted(benchmarks, tmp_path, monkeypatch):
    turns, meter = benchmarks
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
