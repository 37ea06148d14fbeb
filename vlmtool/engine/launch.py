"""Many processes from one command: torchrun in process, by the environment variables of XTuner's guide."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from signal import Signals
from types import FrameType
from typing import Any

import psutil

from vlmtool.engine.orphan import following_launcher
from vlmtool.engine.signals import STOPPING, Stopped, StopSignals
from vlmtool.utils.errors import UsageError, VlmtoolError
from vlmtool.utils.failure import LAUNCHED

DEFAULT_PORT = 29500
PORTS = 1 << 16
JOIN_SECONDS = 900  # that the processes wait for one another at the start
SHUTDOWN_SECONDS = 15  # for the others to end by themselves once one has failed


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
    processes = whole_number(environment, "NPROC_PER_NODE", 1)
    nodes = whole_number(environment, "NNODES", 1)
    if processes * nodes == 1:
        return None
    node, port = whole_number(environment, "NODE_RANK", 0, least=0), port_number(environment, "PORT")
    return Launch(processes, nodes, node, environment.get("ADDR", "127.0.0.1"), port)


def check_nodes(launch: Launch, environment: Mapping[str, str]) -> None:
    """See that each of several nodes knows its place: else they would wait for one another in different places.

    Raises:
        UsageError: a variable is missing, or makes no sense.
    """
    missing = [name for name in ("NODE_RANK", "ADDR") if name not in environment]
    if launch.num_nodes == 1 or not (missing or launch.node_rank >= launch.num_nodes):
        return
    what = f"{' and '.join(missing)} not set" if missing else f"NODE_RANK={launch.node_rank} is none of them"
    raise UsageError(
        f"NNODES={launch.num_nodes}: {what}.\n"
        "Start one command on each node, NODE_RANK from 0 on, ADDR that of node 0: NODE_RANK=1 ADDR=10.0.0.1 vlmtool …"
    )


def port_number(environment: Mapping[str, str], name: str) -> int:
    """The port that a variable holds.

    Raises:
        UsageError: it holds none.
    """
    text = environment.get(name, str(DEFAULT_PORT))
    if not text.isdecimal() or not 0 < int(text) < PORTS:
        raise UsageError(f"{name}={text}: is no port, which is a number from 1 to {PORTS - 1}.\nExample: {name}=29500")
    return int(text)


def whole_number(environment: Mapping[str, str], name: str, default: int = 0, least: int = 1) -> int:
    """The whole number that a variable holds.

    Raises:
        UsageError: it holds none, or one below `least`.
    """
    text = environment.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{name}={text}: must be a whole number from {least} on.\nExample: {name}={max(least, 1)}")
    return int(text)


def share_cores(processes: int) -> None:
    """Give each of the processes on this machine its share: else each takes every core, and they wait for each other.

    Slurm and mpirun may have bound a process to less.
    """
    threads = min(len(os.sched_getaffinity(0)), max(1, (os.cpu_count() or 1) // processes))
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(threads))


def run_processes(launch: Launch, arguments: Sequence[str]) -> None:
    """Run `vlmtool ARGUMENTS` in each process and wait.

    SIGTERM and SIGUSR1 are passed on to the processes, which save themselves; then this one ends as they did.

    Raises:
        UsageError: the port is taken, or the machine has fewer GPUs.
        VlmtoolError: a process failed; the message is that process's own. Or the other nodes did not come.
    """
    # At its first import on a machine yapf, which mmengine needs, writes a cache that another process may read
    # half-written: one process goes first.
    import mmengine  # noqa: F401
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from vlmtool.engine.peers import check_gpus, meeting

    check_nodes(launch, os.environ)
    check_gpus(launch.num_processes)
    share_cores(launch.num_processes)
    config = LaunchConfig(
        min_nodes=launch.num_nodes,
        max_nodes=launch.num_nodes,
        nproc_per_node=launch.num_processes,
        rdzv_backend="static",
        rdzv_endpoint=f"{launch.address}:{launch.port}",
        rdzv_configs={"rank": launch.node_rank, "timeout": JOIN_SECONDS},
        run_id="vlmtool",
        max_restarts=0,
        start_method="spawn",
        signals_to_handle="SIGINT,SIGHUP,SIGQUIT",
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    # This process may be a command that vlmtool itself started.
    with following_launcher(), PassedOnSignals(), meeting(launch.address, launch.port):
        os.environ[LAUNCHED] = str(os.getpid())
        try:
            elastic_launch(config, sys.executable)("-m", "vlmtool", *arguments)
        except ChildFailedError as error:
            if (stopped := _stopped_by(error.failures)) is not None:
                raise Stopped(stopped) from error
            raise _first_failure(error.failures) from error
        except SignalException as error:
            if error.sigval is Signals.SIGINT:
                raise KeyboardInterrupt from error
            raise Stopped(error.sigval) from error


class PassedOnSignals(StopSignals):
    """Sends each stopping signal on to the processes that this one started."""

    def _note(self, number: int, frame: FrameType | None) -> None:
        super()._note(number, frame)
        children = psutil.Process().children()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)
        if not children:
            raise Stopped(number)


def _stopped_by(failures: Mapping[int, Any]) -> int | None:
    """The stopping signal that every process ended with, also where only one of them got it; else None.

    A process that could not save ends with an error of its own, whatever signal made it save. By SIGTERM the launcher
    also ends those that are a little slower than the first to go, so that another signal is the one that was meant.
    """
    numbers = {_signal_of(failure.exitcode) for failure in failures.values()}
    if None in numbers:
        return None
    return next((number for number in numbers if number != Signals.SIGTERM), int(Signals.SIGTERM))


def _signal_of(exit_code: int) -> int | None:
    """The stopping signal by which a process ended: saved (128 + signal), or before there was anything to save."""
    return next((int(number) for number in STOPPING if exit_code in (128 + number, -number)), None)


def _first_failure(failures: Mapping[int, Any]) -> VlmtoolError:
    """The error of the process that failed first: the others failed because it was gone.

    Args:
        failures: torch's `ProcessFailure` of each rank that failed. One that was killed left no words, and came first,
            unless by SIGTERM: so the launcher ends those that are left, which may be too busy starting to note it.
    """
    causes = {rank: failure for rank, failure in failures.items() if failure.exitcode != -Signals.SIGTERM} or failures
    rank, failure = min(causes.items(), key=lambda item: item[1].error_file_data.get("timestamp", 0))
    words = failure.error_file_data.get("message")
    if "timestamp" not in failure.error_file_data:
        killed = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
        words = (
            f"{killed} and could not say why.\n"
            "Was the memory full (`dmesg`)? Mend that, then go on with the same command and --resume."
        )
    error = VlmtoolError(f"rank {rank}: {words}")
    error.exit_code = failure.exitcode if failure.exitcode > 0 else VlmtoolError.exit_code
    return error
