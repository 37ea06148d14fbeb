"""Trainings that take turns, a few steps each: what disturbs the machine for a while slows all of them alike.

Run one after the other, two trainings see a machine whose speed may have changed by a third in between. Here all are
started, and each waits before its steps (`meter.py`) until it is their turn, in which nothing else runs.
"""

import socket
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from train_throughput import Work, command, environment, finished

FIRST_PORT = 29_877  # of those at which the processes of a training meet


@dataclass(frozen=True)
class Training:
    """One of those that take turns.

    Args:
        setting: of `train_throughput.py`.
        turn: trainings of the same turn run at the same time.
        num_processes: of this training.
    """

    work: Work
    setting: str
    turn: str
    num_processes: int = 1


def in_turns(trainings: Mapping[str, Training], folder: Path, stride: int = 1) -> dict[str, dict[str, Any]]:
    """Figures of each training, by name.

    Args:
        stride: steps of a turn.

    Raises:
        SystemExit: one of them failed.
    """
    with ExitStack() as opened:
        server = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        running: dict[str, _Running] = {}
        for number, (name, training) in enumerate(trainings.items()):
            meter = {"turns": {"port": server.getsockname()[1], "name": name, "stride": stride}}
            words, out = command(training.work, training.setting, folder, f"_{name}", **meter)
            spread = {"NPROC_PER_NODE": str(training.num_processes), "PORT": str(FIRST_PORT + number)}
            variables = environment(**(spread if training.num_processes > 1 else {}))
            running[name] = opened.enter_context(_started(words, variables, out, folder / f"{name}.log"))
        expected = sum(training.num_processes for training in trainings.values())
        askers = [opened.enter_context(asker) for asker in _arrivals(server, expected, running.values())]
        groups: dict[str, Group] = {}
        for name, training in trainings.items():
            groups.setdefault(training.turn, Group([], [])).processes.append(running[name].process)
        for asker in askers:
            groups[trainings[asker.readline().strip()].turn].askers.append(asker)
        grant(list(groups.values()))
        return {name: one.figures() for name, one in running.items()}


@dataclass(frozen=True)
class _Running:
    process: "subprocess.Popen[bytes]"
    out: Path
    log: Path

    def figures(self) -> dict[str, Any]:
        """Once it has ended."""
        return finished(self.process.wait(), self.log.read_text(), self.out)


@contextmanager
def _started(words: Sequence[str], variables: Mapping[str, str], out: Path, log: Path) -> Iterator[_Running]:
    """A training that is not left behind."""
    with log.open("wb") as said:
        process = subprocess.Popen(words, env=dict(variables), stdout=subprocess.DEVNULL, stderr=said)
    try:
        yield _Running(process, out, log)
    finally:
        process.terminate()
        process.wait()


def _arrivals(server: socket.socket, count: int, running: Collection[_Running]) -> Iterator[TextIO]:
    """A connection for each process."""
    server.settimeout(1)
    for _ in range(count):
        while True:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                for one in running:
                    if one.process.poll() is not None:
                        one.figures()  # tells why
            else:
                connection.settimeout(None)
                yield connection.makefile("rw")
                break


class Group(NamedTuple):
    """Trainings of one turn."""

    askers: list[TextIO]
    processes: list["subprocess.Popen[bytes]"]


def grant(groups: Sequence[Group]) -> None:
    """Let one group after the other make its steps, until all have ended."""
    while any(group.askers for group in groups):
        for group in groups:
            for asker in group.askers:
                asker.write("go\n")
                asker.flush()
            group.askers[:] = [asker for asker in group.askers if asker.readline()]  # it asks again, or has ended
            if not group.askers:
                for process in group.processes:  # which still saves and cleans up
                    process.wait()
