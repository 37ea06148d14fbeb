"""The other processes of a run: what is told when they do not come, differ from this one, or go."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from vlmtool.utils.distributed import gather_lists, is_distributed
from vlmtool.utils.errors import UsageError, VlmtoolError, message_lines, shortened

# As gloo and NCCL say it.
GONE = re.compile(r"Connection (closed|reset|refused)|Broken pipe|remote process exited|connection was closed")


def check_gpus(processes: int) -> None:
    """See that each process of this machine can have a GPU of its own, where there are any.

    Raises:
        UsageError: there are too few.
    """
    count = torch.cuda.device_count()
    if 0 < count < processes:
        raise UsageError(f"NPROC_PER_NODE={processes}: this machine shows {count} GPUs.\nStart one process for each.")


@contextmanager
def meeting(address: str, port: int | str) -> Iterator[None]:
    """Tell why processes do not meet at `address` and `port`.

    Raises:
        UsageError: the port is taken on this machine.
        VlmtoolError: the others did not come, or were not found.
    """
    try:
        yield
    except RuntimeError as error:  # torch's DistError, and what gloo says
        if "EADDRINUSE" in str(error):
            raise UsageError(
                f"PORT={port}: another program of this machine uses it, such as another training.\n"
                f"Give one that is free, the same on every node: PORT={int(port) + 1}"
            ) from error
        raise VlmtoolError(
            f"The processes did not meet at {address}:{port}: {message_lines(error)[0]}\n"
            "Was the command started on every node, is ADDR the first node's, and can the others reach it?\n"
            "Machines with several networks need a name: NCCL_SOCKET_IFNAME=eth0, without GPUs GLOO_SOCKET_IFNAME=eth0."
        ) from error


@contextmanager
def losing_peers() -> Iterator[None]:
    """Tell a broken connection for what it is: another process is gone, and knows why.

    Raises:
        VlmtoolError: that happened.
    """
    try:
        yield
    except RuntimeError as error:
        if not (is_distributed() and GONE.search(str(error))):
            raise
        raise VlmtoolError(
            "stopped, as another process is gone, or the way to it: the connection broke.\n"
            "Its own error says why; if there is none, look at its machine (`dmesg`).\n"
            "Then go on: train with --resume, mmbench and eval by the same command."
        ) from error


def check_same(said: Mapping[str, Any]) -> None:
    """See that every process was started with the same recipe, files and packages; called by all of them.

    On one machine it cannot be otherwise. On several, each has a command, and may have disks, of its own.

    Args:
        said: plain values, as a checkpoint's meta has them.

    Raises:
        VlmtoolError: a process differs from rank 0, in what, and how.
    """
    everyone = gather_lists([dict(_flat(said))])
    for number, one in enumerate(everyone):
        differing = sorted(key for key in {*one, *everyone[0]} if one.get(key) != everyone[0].get(key))
        if differing:
            here, there = (shortened(repr(values.get(differing[0]))) for values in (one, everyone[0]))
            raise VlmtoolError(
                f"rank {number} differs from rank 0: {differing[0]} is {here}, not {there}.\n"
                "Start every node with the same command, files and packages."
            )


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value with its dotted name."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _flat(item, f"{key}.{number}")
    else:
        yield key, value
