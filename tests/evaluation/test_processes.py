"""Two processes answer one benchmark through the real command, and are killed in the middle of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest

from tests.chat.conftest import byte_tokenizer, image_processor, tiny_llm, tiny_vision
from tests.chat.folders import write_folders

NUM_QUESTIONS = 150
EMPTY: Mapping[str, str] = MappingProxyType({})
COMMAND = [sys.executable, "-m", "vlmtool", "mmbench"]
OPTIONS = ("--max-new-tokens", "60", "--batch-size", "6")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("model")
    tiny_llm().save_pretrained(root / "llm")
    byte_tokenizer().save_pretrained(root / "llm")
    tiny_vision().save_pretrained(root / "clip")
    image_processor().save_pretrained(root / "clip")
    return write_folders(root, root / "llm", root / "clip").model


@pytest.fixture
def table(write_table) -> Path:
    """Questions of two rotations."""
    rows = []
    for number in range(NUM_QUESTIONS):
        options = [f"left {number}", f"right {number}"]
        for turn in range(2):
            index = str(number + turn * 1_000_000)
            rows.append({"index": index, "A": options[turn], "B": options[1 - turn], "answer": "AB"[turn]})
    return write_table(*rows)


def start(
    model: Path, table: Path, folder: Path, processes: int, *options: str, more: Mapping[str, str] = EMPTY
) -> subprocess.Popen:
    several = {"NPROC_PER_NODE": str(processes), "PORT": str(29600 + os.getpid() % 300)}
    environment = {**os.environ, **several, **more}
    return subprocess.Popen(
        [*COMMAND, str(model), "--data-path", str(table), "--work-dir", str(folder), *OPTIONS, *options],
        env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def mpi(rank: int) -> dict[str, str]:
    """Variables of one of two processes, as Open MPI's mpirun sets them."""
    names = ("RANK", "LOCAL_RANK", "SIZE", "LOCAL_SIZE")
    values = (rank, rank, 2, 2)
    return {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in zip(names, values, strict=True)}


def finish(process: subprocess.Popen) -> None:
    _, words = process.communicate(timeout=300)
    assert process.returncode == 0, words[-2000:]


def answers(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_bytes().splitlines()]


def count_lines(folder: Path) -> int:
    """0 where a file was joined with another meanwhile: it is looked at again."""
    try:
        return sum(path.read_bytes().count(b"\n") for path in folder.glob("predictions*.jsonl"))
    except FileNotFoundError:
        return 0


def kill_when(process: subprocess.Popen, folder: Path, lines: int) -> None:
    deadline = time.monotonic() + 200
    while count_lines(folder) < lines:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1][-2000:]
        time.sleep(0.005)
    for member in [*psutil.Process(process.pid).children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize(
    "kills", [pytest.param(1, id="once"), pytest.param(5, id="five times", marks=pytest.mark.soak)]
)
def test_killed_in_the_middle_each_row_is_answered_once(model, table, tmp_path, kills):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    finish(start(model, table, whole, 1))
    for kill in range(kills):
        process = start(model, table, folder, 2)
        kill_when(process, folder, (kill + 1) * NUM_QUESTIONS // (kills + 2))
    at_hand = count_lines(folder)
    assert 0 < at_hand < 2 * NUM_QUESTIONS
    finish(start(model, table, folder, 2, "--batch-size", "3"))
    expected, found = answers(whole), answers(folder)
    assert [entry["index"] for entry in found] == [entry["index"] for entry in expected]  # each once, none lost
    assert found == expected  # the prompts' and the model's hashes too
    left, right = (json.loads((path / "metrics.json").read_text()) for path in (whole, folder))
    assert left["scores"] == right["scores"]
    assert not list(folder.glob("predictions.rank*"))


@pytest.mark.soak
def test_processes_that_mpirun_started_answer_each_row_once(model, table, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "mpi"
    finish(start(model, table, whole, 1))
    ranks = [start(model, table, folder, 1, "--launcher", "mpi", more=mpi(rank)) for rank in (0, 1)]
    for rank in ranks:
        finish(rank)
    assert answers(folder) == answers(whole)
