"""How many processes, from the environment."""

import pytest

from vlmtool.engine.launch import Launch, launch_settings
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
