"""Many processes from one command: torchrun in process, by the environment variables of XTuner's guide."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmtool.utils.errors import UsageError, VlmtoolError

DEFAULT_PORT = 29500


@dataclass(frozen=True)
class Launch:
    """How many processes, and where they meet."""

    num_processes: int
    num_nodes: int
    node_rank: int
    address: str
    port: int


def launch_settings(environment: Mapping[str, str]) -> Launch | None:
    """NPROC_PER_NODE, NNODES, NODE_RANK, ADDR and PORT; None for one process, or inside one that was launched.

    Raises:
        UsageError: one of them is no number.
    """
    if "LOCAL_RANK" in environment:
        return None
    processes = _number(environment, "NPROC_PER_NODE", 1)
    nodes = _number(environment, "NNODES", 1)
    if processes * nodes == 1:
        return None
    node = _number(environment, "NODE_RANK", 0)
    return Launch(
        processes, nodes, node, environment.get("ADDR", "127.0.0.1"), _number(environment, "PORT", DEFAULT_PORT)
    )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(f"{name}={text}: must be a whole number.\nExample: NPROC_PER_NODE=8 vlmtool train …")
    return int(text)


def run_processes(launch: Launch, arguments: Sequence[str]) -> None:
    """Run `vlmtool ARGUMENTS` in each process and wait.

    Raises:
        VlmtoolError: a process failed; its own error has been printed by it.
    """
    # At its first import on a machine yapf, which mmengine needs, writes a cache that another process may read
    # half-written: one process goes first.
    import mmengine  # noqa: F401
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Without a limit each process would take every core, and they would wait for one another.
    threads = max(1, (os.cpu_count() or 1) // launch.num_processes)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(threads))
    config = LaunchConfig(
        min_nodes=launch.num_nodes,
        max_nodes=launch.num_nodes,
        nproc_per_node=launch.num_processes,
        rdzv_backend="static",
        rdzv_endpoint=f"{launch.address}:{launch.port}",
        rdzv_configs={"rank": launch.node_rank, "timeout": 900},
        run_id="vlmtool",
        max_restarts=0,
        start_method="spawn",
    )
    try:
        elastic_launch(config, sys.executable)("-m", "vlmtool", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise VlmtoolError(
            f"rank {rank} stopped with exit code {failure.exitcode}; its error stands above.\n"
            "Mend that, then go on with the same command and --resume."
        ) from error
