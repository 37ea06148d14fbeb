"""Ranks that Slurm or mpirun started: their variables become torchrun's, or it is said what is missing."""

import pytest

from vlmtool.cli.train import train
from vlmtool.engine.ranks import first_host, rank_variables, tasks_on_node
from vlmtool.utils.errors import UsageError

# Task 5 of `srun --nodes 3`, with two tasks on the first and second node and three on the third.
SLURM = {
    "SLURM_PROCID": "5", "SLURM_NTASKS": "7", "SLURM_LOCALID": "1", "SLURM_NODEID": "2",
    "SLURM_STEP_NODELIST": "gpu[09-10],login7", "SLURM_STEP_TASKS_PER_NODE": "2(x2),3",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}  # fmt: skip
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}


def test_slurm():
    assert rank_variables("slurm", SLURM) == {
        "RANK": "5", "WORLD_SIZE": "7", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "gpu09", "MASTER_PORT": "29500",
    }  # fmt: skip


def test_slurm_with_as_many_tasks_on_each_node():
    given = {**SLURM, "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4"}
    del given["SLURM_STEP_TASKS_PER_NODE"]
    assert rank_variables("slurm", given)["LOCAL_WORLD_SIZE"] == "4"


def test_open_mpi_on_two_machines():
    with pytest.raises(UsageError, match="ADDR=node01"):
        rank_variables("mpi", OPEN_MPI)
    assert rank_variables("mpi", {**OPEN_MPI, "ADDR": "10.0.0.1", "PORT": "29600"}) == {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29600",
    }  # fmt: skip


def test_mpich_and_intel_mpi_on_one_machine():
    assert rank_variables("mpi", HYDRA) == {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
    }  # fmt: skip


def test_given_addresses_go_first():
    other = {"MASTER_ADDR": "ib0.gpu09", "MASTER_PORT": "29700"}
    assert rank_variables("slurm", {**SLURM, **other}).items() >= other.items()
    ours = rank_variables("slurm", {**SLURM, **other, "ADDR": "10.1.0.9", "PORT": "29800"})
    assert (ours["MASTER_ADDR"], ours["MASTER_PORT"]) == ("10.1.0.9", "29800")


def test_others_need_no_translation():
    assert rank_variables("none", SLURM) == {}
    assert rank_variables("pytorch", {"LOCAL_RANK": "0"}) == rank_variables("pytorch", {"NPROC_PER_NODE": "2"}) == {}


@pytest.mark.parametrize("missing", ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST"])
def test_what_slurm_did_not_say_is_named(missing):
    given = {name: value for name, value in SLURM.items() if name != missing}
    with pytest.raises(UsageError, match=rf"{missing} not set\.\n.*srun"):
        rank_variables("slurm", given)


def test_a_number_of_processes_beside_a_launcher_is_refused():
    with pytest.raises(UsageError, match=r"NPROC_PER_NODE=8 is not for it.*\n.*unset NPROC_PER_NODE"):
        rank_variables("slurm", {"NPROC_PER_NODE": "8"})


def test_a_batch_script_without_srun_is_refused():
    """It has a rank and a number of tasks, and would wait for tasks that nobody starts."""
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_NODELIST": "gpu[09-10]"}
    with pytest.raises(UsageError, match="SLURM_STEP_NODELIST not set"):
        rank_variables("slurm", batch)


@pytest.mark.parametrize(
    ("launcher", "environment", "told"),
    [
        ("slurm", {}, "SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, SLURM_STEP_NODELIST not set"),
        ("mpi", {}, "OMPI_COMM_WORLD_RANK, .* not set.\n.*mpirun"),
        ("mpi", {name: HYDRA[name] for name in ("PMI_RANK", "PMI_SIZE")}, "MPI_LOCALRANKID, MPI_LOCALNRANKS not set"),
        ("pytorch", {}, "torchrun did not start this process"),
        ("slurm", {**SLURM, "SLURM_PROCID": "five"}, "SLURM_PROCID=five"),
        ("slurm", {**SLURM, "SLURM_PROCID": "7"}, "contradict one another: RANK 7, WORLD_SIZE 7"),
        ("slurm", {**SLURM, "SLURM_NODEID": "3"}, "says nothing of this node"),
        ("slurm", {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(x2),three"}, "says nothing of this node"),
        ("slurm", {**SLURM, "PORT": "http"}, "PORT=http"),
    ],
)
def test_variables_that_cannot_be_used_are_told(launcher, environment, told):
    with pytest.raises(UsageError, match=told) as error:
        rank_variables(launcher, environment)
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node01", "node01"),
        ("node[01-03,7]", "node01"),
        ("node[7,9-12],gpu[1-2]", "node7"),
        ("gpu-a,gpu-b", "gpu-a"),
        ("rack[2-3]n[008-010]-ib.cluster.org,x", "rack2n008-ib.cluster.org"),
    ],
)
def test_the_first_host_of_a_node_list(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize("nodes", ["", "node[01-", "node[]", "a,,b", "node 1"])
def test_no_node_list_is_told(nodes):
    with pytest.raises(UsageError, match="not a list of hosts"):
        first_host(nodes)


def test_train_asks_for_them(monkeypatch):
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="SLURM_PROCID"):
        train("llava_v15_7b_finetune", launcher="slurm")
    with pytest.raises(UsageError, match="--launcher slum: unknown. Did you mean 'slurm'"):
        train("llava_v15_7b_finetune", launcher="slum")


def test_tasks_on_each_node():
    assert [tasks_on_node("2(x3),1", node) for node in range(4)] == [2, 2, 2, 1]
    assert tasks_on_node("8", 0) == 8
