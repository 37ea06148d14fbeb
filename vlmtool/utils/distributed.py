"""Rank, world size and the few collectives that code outside the engine needs. One process: all are no-ops."""

import os
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vlmtool.utils.errors import UsageError

T = TypeVar("T")


def is_distributed() -> bool:
    """True where a process group is up."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 in a single process.

    Before the group is up the environment tells. RANK alone says nothing of processes: some clusters set it for a
    machine (Kubeflow); torchrun sets LOCAL_RANK with it.
    """
    if is_distributed():
        return dist.get_rank()
    return int(os.environ.get("RANK", 0)) if "LOCAL_RANK" in os.environ else 0


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def is_main() -> bool:
    """True for the one process that prints and writes."""
    return rank() == 0


def local_gpu() -> torch.device:
    """This process's GPU: that of its number on this machine, or the only one it sees (Slurm's --gpus-per-task).

    Raises:
        UsageError: there are fewer GPUs than processes.
    """
    index, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if count > 1 and index >= count:
        raise UsageError(f"Process {index} of this machine sees {count} GPUs.\nStart as many processes as GPUs.")
    return torch.device("cuda", index if count > 1 else 0)


def barrier() -> None:
    """Wait for every process."""
    if is_distributed():
        dist.barrier()


class Sum:
    """Element-wise sum of a tensor over all processes: under way from here on, the others are waited for by `read`.

    Args:
        values: on this process's device: NCCL sums nothing that lies on the CPU. They become the sum.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._work = dist.all_reduce(values, async_op=True) if is_distributed() else None

    def read(self) -> Tensor:
        """The sum."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return self._values


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Element-wise sum of `values` over all processes, in float64.

    Args:
        device: of this process.
    """
    if not is_distributed():
        return list(values)
    return Sum(torch.tensor(values, dtype=torch.float64, device=device)).read().tolist()


def share_trained(model: nn.Module) -> None:
    """Give every process rank 0's trained weights. Frozen ones are read from files, and stay where they were mapped."""
    for weight in model.parameters():
        if weight.requires_grad:
            dist.broadcast(weight.detach(), 0)


def gather_lists(values: list[T]) -> list[T]:
    """The lists of all processes as one, in the order of the ranks."""
    if not is_distributed():
        return list(values)
    lists: list[list[T]] = [[]] * world_size()
    dist.all_gather_object(lists, values)
    return [value for part in lists for value in part]
