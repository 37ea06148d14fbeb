"""Processes that srun or mpirun started: what these say of a process's rank and place, in torchrun's words."""

import os
import re
from collections.abc import Iterable, Mapping

from vlmtool.engine.launch import port_number, share_cores, whole_number
from vlmtool.utils.errors import UsageError

# Slurm, "Output environment variables" of srun: https://slurm.schedmd.com/srun.html
SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
NODES, TASKS_ON_NODES = "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"
# Open MPI: https://docs.open-mpi.org/en/main/tuning-apps/environment-var.html; MPICH and Intel MPI by Hydra.
MPI = (
    {
        "RANK": "OMPI_COMM_WORLD_RANK", "WORLD_SIZE": "OMPI_COMM_WORLD_SIZE",
        "LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_RANK", "LOCAL_WORLD_SIZE": "OMPI_COMM_WORLD_LOCAL_SIZE",
    },
    {
        "RANK": "PMI_RANK", "WORLD_SIZE": "PMI_SIZE",
        "LOCAL_RANK": "MPI_LOCALRANKID", "LOCAL_WORLD_SIZE": "MPI_LOCALNRANKS",
    },
)  # fmt: skip
HOST = r"(?:[\w.-]|\[[\d,-]+\])+"  # of a Slurm node list: `node[01-03,7]`, `rack[1-2]n[1-4]-ib`


def join_launcher(launcher: str) -> None:
    """Put torchrun's variables into the environment of a process that `launcher` started; `rank_variables` says which.

    Raises:
        UsageError: it did not start this process.
    """
    variables = rank_variables(launcher, os.environ)
    os.environ.update(variables)
    if variables:
        share_cores(int(variables["LOCAL_WORLD_SIZE"]))


def rank_variables(launcher: str, environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; nothing where they need no word.

    Args:
        launcher: "slurm" or "mpi"; for "none" and "pytorch", whose processes have these variables, nothing is done.
        environment: of this process. ADDR and PORT, or MASTER_ADDR and MASTER_PORT, go before what is found.

    Raises:
        UsageError: a variable that the launcher sets for its processes is missing, or makes no sense.
    """
    if launcher == "pytorch" and not {"LOCAL_RANK", "NPROC_PER_NODE", "NNODES"} & set(environment):
        raise UsageError(
            "--launcher pytorch: LOCAL_RANK is not set: torchrun did not start this process.\n"
            "Use NPROC_PER_NODE=8 vlmtool …, or torchrun --nproc-per-node 8 -m vlmtool …"
        )
    if launcher not in ("slurm", "mpi"):
        return {}
    if "NPROC_PER_NODE" in environment and "LOCAL_RANK" not in environment:
        raise UsageError(
            f"--launcher {launcher}: NPROC_PER_NODE={environment['NPROC_PER_NODE']} is not for it: its own command "
            f"says how many processes there are.\nTake the variable away (unset NPROC_PER_NODE). {_START[launcher]}"
        )
    found = _slurm(environment) if launcher == "slurm" else _mpi(environment)
    if int(found["RANK"]) >= int(found["WORLD_SIZE"]) or int(found["LOCAL_RANK"]) >= int(found["LOCAL_WORLD_SIZE"]):
        said = ", ".join(f"{name} {value}" for name, value in found.items())
        raise UsageError(f"--launcher {launcher}: its variables contradict one another: {said}.\n{_START[launcher]}")
    port = "PORT" if "PORT" in environment else "MASTER_PORT"
    return found | {"MASTER_PORT": str(port_number(environment, port))}


_START = {
    "slurm": "Start every process with srun: srun --ntasks-per-node=8 vlmtool … --launcher slurm",
    "mpi": "Start every process with mpirun: mpirun -np 8 vlmtool … --launcher mpi",
}


def _slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """The rest but for the port.

    A batch script has SLURM_PROCID too, and there is nobody else: only what srun starts has the step's node list.
    """
    address = _address(environment)
    _require(environment, "slurm", [*SLURM.values(), *([] if address else [NODES])])
    found = {name: str(whole_number(environment, source, least=0)) for name, source in SLURM.items()}
    if TASKS_ON_NODES in environment:
        node = whole_number(environment, "SLURM_NODEID", 0, least=0)
        local = tasks_on_node(environment[TASKS_ON_NODES], node)
    else:
        _require(environment, "slurm", [TASKS_ON_NODES] if "SLURM_NTASKS_PER_NODE" not in environment else [])
        local = whole_number(environment, "SLURM_NTASKS_PER_NODE")
    return found | {"LOCAL_WORLD_SIZE": str(local), "MASTER_ADDR": address or first_host(environment[NODES])}


def _mpi(environment: Mapping[str, str]) -> dict[str, str]:
    """The rest but for the port."""
    sources = next((names for names in MPI if names["RANK"] in environment), MPI[0])
    _require(environment, "mpi", sources.values())
    found = {name: str(whole_number(environment, source, least=0)) for name, source in sources.items()}
    address = _address(environment)
    if address is None and found["LOCAL_WORLD_SIZE"] != found["WORLD_SIZE"]:
        raise UsageError(
            "--launcher mpi: several machines, and mpirun does not say on which of them rank 0 is.\n"
            "Give its name or address: ADDR=node01 (Open MPI: mpirun -x ADDR=node01, MPICH: mpirun -genv ADDR node01)."
        )
    return found | {"MASTER_ADDR": address or "127.0.0.1"}


def _require(environment: Mapping[str, str], launcher: str, names: Iterable[str]) -> None:
    missing = [name for name in names if name not in environment]
    if missing:
        raise UsageError(f"--launcher {launcher}: {', '.join(missing)} not set.\n{_START[launcher]}")


def _address(environment: Mapping[str, str]) -> str | None:
    """Where rank 0 is, if somebody said so."""
    return environment.get("ADDR") or environment.get("MASTER_ADDR")


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list, where rank 0 is: `node01` of `node[01-03,7],gpu[1-2]`.

    Of each bracket the first number counts, with its leading zeros; the rest of the list is not needed.

    Raises:
        UsageError: no node list.
    """
    if not re.fullmatch(f"{HOST}(?:,{HOST})*", nodes):
        raise UsageError(f"{NODES}={nodes}: not a list of hosts as node[01-03,7].\nGive rank 0's host: ADDR=node01.")
    first = re.match(HOST, nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0] if first else "")


def tasks_on_node(counts: str, node: int) -> int:
    """How many processes a node has, from Slurm's words for all nodes: `2(x3),1` is 2, 2, 2 and 1.

    Raises:
        UsageError: no such list, or it is shorter.
    """
    for part in counts.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            break
        if node < (repeated := int(match[2] or 1)):
            return int(match[1])
        node -= repeated
    raise UsageError(f"{TASKS_ON_NODES}={counts}: says nothing of this node.\n{_START['slurm']}")
