"""Trainings that take turns, a few steps each: what disturbs the machine for a while slows all of them alike.

Run one after the other, two trainings see a machine whose speed may have changed by a third in between. Here all are
started, and each waits for its turn before its steps (`meter.py`, `stopwatch.py`); nothing else runs in it.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from train_throughput import Work, command, environment, finished

FIRST_PORT = 29_877  # of those at which the processes of a training meet


class Entrant(Protocol):
    """What takes turns."""

    @property
    def turn(self) -> str:
        """Its name; trainings of the same turn run at the same time."""

    @property
    def num_processes(self) -> int:
        """How many will ask for it."""

    def prepared(self, folder: Path, port: int, asker: Mapping[str, Any]) -> tuple[Sequence[str], Mapping[str, str]]:
        """Command and environment.

        Args:
            port: free for its processes to meet.
            asker: what `Asker` takes.
        """

    def figures(self, folder: Path, name: str, code: int, said: str) -> dict[str, Any] | None:
        """Of one that has ended; None if there are none and the others may go on without.

        Raises:
            SystemExit: there are none, and nothing can be said without.
        """


@dataclass(frozen=True)
class Training:
    """One of vlmtool.

    Args:
        setting: of `train_throughput.py`.
    """

    work: Work
    setting: str
    turn: str
    num_processes: int = 1

    def prepared(self, folder: Path, port: int, asker: Mapping[str, Any]) -> tuple[Sequence[str], Mapping[str, str]]:
        """As `Entrant` has it."""
        words, _ = command(self.work, self.setting, folder, f"_{asker['name']}", turns=dict(asker))
        several = {"NPROC_PER_NODE": str(self.num_processes), "PORT": str(port)}
        return words, environment(**(several if self.num_processes > 1 else {}))

    def figures(self, folder: Path, name: str, code: int, said: str) -> dict[str, Any]:
        """As the meter wrote them."""
        return finished(code, said, folder / f"{self.setting}_{name}.json")


def in_turns(trainings: Mapping[str, Entrant], folder: Path, stride: int = 1) -> dict[str, dict[str, Any]]:
    """Figures of each training, by name; of those that have any.

    Args:
        folder: of what they write.
        stride: steps of a turn.

    Raises:
        SystemExit: one of vlmtool failed.
    """
    with ExitStack() as opened:
        server = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        running: dict[str, _Running] = {}
        for number, (name, training) in enumerate(trainings.items()):
            asker = {"port": server.getsockname()[1], "name": name, "stride": stride}
            words, variables = training.prepared(folder, FIRST_PORT + number, asker)
            log = folder / f"{name}.log"
            process = opened.enter_context(_started(words, variables, log))
            running[name] = _Running(training, name, process, log)
        groups: dict[str, Group] = {training.turn: Group([], []) for training in trainings.values()}
        for name, asker in _arrivals(server, running):
            opened.enter_context(asker)
            groups[trainings[name].turn].askers.append(asker)
        for one in running.values():
            groups[one.training.turn].processes.append(one.process)
        grant(list(groups.values()))
        found = {name: one.figures(folder) for name, one in running.items()}
    return {name: figures for name, figures in found.items() if figures is not None}


class _Running(NamedTuple):
    training: Entrant
    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def figures(self, folder: Path) -> dict[str, Any] | None:
        """Once it has ended."""
        code, said = self.process.wait(), self.log.read_text(errors="replace")
        found = self.training.figures(folder, self.name, code, said)
        if found is None:
            print(f"{self.name} gave no figures and ended with {code}:\n{said[-2000:]}", file=sys.stderr, flush=True)
        return found


@contextmanager
def _started(words: Sequence[str], variables: Mapping[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A training that is not left behind, nor are the processes that it started."""
    with log.open("wb") as said:
        # A group, not a session of its own: Linux shares out the cores by session, and what is measured would change.
        process = subprocess.Popen(words, env=dict(variables), stdout=said, stderr=subprocess.STDOUT, process_group=0)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _arrivals(server: socket.socket, running: Mapping[str, _Running]) -> Iterator[tuple[str, TextIO]]:
    """Connections of all processes, as each asks for its first turn; those that end before they do are not awaited."""
    server.settimeout(1)
    awaited = {name: one.training.num_processes for name, one in running.items()}
    while any(awaited.values()):
        try:
            connection, _ = server.accept()
        except TimeoutError:
            for name in [name for name, count in awaited.items() if count and running[name].process.poll() is not None]:
                running[name].figures(running[name].log.parent)  # tells why
                awaited[name] = 0
        else:
            connection.settimeout(None)
            asker = connection.makefile("rw")
            name = asker.readline().strip()
            awaited[name] -= 1
            yield name, asker


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
