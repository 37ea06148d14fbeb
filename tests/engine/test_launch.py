"""How many processes, from the environment."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from vlmtool import cli
from vlmtool.engine.launch import Launch, _stopped_by, check_nodes, launch_settings
from vlmtool.utils.errors import UsageError


def test_one_process_by_default():
    assert launch_settings({}) is None
    assert launch_settings({"NPROC_PER_NODE": "1"}) is None
    assert launch_settings({"NPROC_PER_NODE": "8", "LOCAL_RANK": "3"}) is None  # already inside


def test_xtuners_variables():
    environment = {"NPROC_PER_NODE": "8", "NNODES": "2", "NODE_RANK": "1", "ADDR": "10.0.0.1", "PORT": "29600"}
    assert launch_settings(environment) == Launch(8, 2, 1, "10.0.0.1", 29600)
    assert launch_settings({"NPROC_PER_NODE": "2"}) == Launch(2, 1, 0, "127.0.0.1", 29500)


def test_no_number_is_told():
    with pytest.raises(UsageError, match="NPROC_PER_NODE=eight"):
        launch_settings({"NPROC_PER_NODE": "eight"})


@pytest.mark.parametrize("port", ["abc", "0", "80000"])
def test_what_is_no_port_is_told(port):
    with pytest.raises(UsageError, match=rf"PORT={port}: is no port.*\n.*PORT=29500"):
        launch_settings({"NPROC_PER_NODE": "2", "PORT": port})


def test_each_of_several_nodes_needs_its_place():
    first = {"NNODES": "2", "NODE_RANK": "0", "ADDR": "10.0.0.1"}
    check_nodes(launch_settings(first), first)
    check_nodes(Launch(8, 1, 0, "127.0.0.1", 29500), {})
    for lost, told in (("NODE_RANK", "NODE_RANK not set"), ("ADDR", "ADDR not set")):
        given = {name: value for name, value in first.items() if name != lost}
        with pytest.raises(UsageError, match=rf"NNODES=2: {told}"):
            check_nodes(launch_settings(given), given)
    third = {**first, "NODE_RANK": "2"}
    with pytest.raises(UsageError, match="NODE_RANK=2 is none of them"):
        check_nodes(launch_settings(third), third)


def test_only_training_and_evaluation_start_processes():
    """`NPROC_PER_NODE=8 vlmtool convert …` converts once."""
    starting = {file.name for file in Path(cli.__file__).parent.glob("*.py") if "launch_settings" in file.read_text()}
    assert {"train.py", "evaluation.py"} <= starting <= {"train.py", "evaluation.py", "run.py"}


@dataclass
class Failure:
    exitcode: int


@pytest.mark.parametrize(
    ("exit_codes", "signal"),
    [
        ((143, 143), 15),
        ((138, 143), 10),  # the launcher ends the slower process itself
        ((143, 138), 10),
        ((-15, 138), 10),
        ((-15, -15), 15),  # before there was anything to save
        ((1, 143), None),
        ((143, -9), None),
        ((137, 137), None),
    ],
)
def test_only_what_every_process_ended_with_counts_as_a_stop(exit_codes, signal):
    assert _stopped_by({number: Failure(code) for number, code in enumerate(exit_codes)}) == signal
