"""Which device and number types a process uses."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vlmtool.engine.launch import JOIN_SECONDS
from vlmtool.engine.peers import meeting
from vlmtool.utils.distributed import local_gpu
from vlmtool.utils.errors import UsageError

# Longer than any rank works alone before the first step. A dead rank is noticed at once, a hanging one by `watch`.
COLLECTIVE_TIMEOUT = timedelta(days=7)


def pick_device() -> torch.device:
    """This rank's GPU, or the CPU."""
    if torch.cuda.is_available():
        device = local_gpu()
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def start_process_group(
    launcher: str,
    device: torch.device,
    strategy: str = "ddp",
    wait: timedelta = timedelta(seconds=JOIN_SECONDS),
) -> None:
    """Join the other processes. mmengine would ask for a GPU; joining before it is built keeps it from that.

    Args:
        strategy: all but ddp need a group also of one process.
        wait: for the others to come; after that collectives have `COLLECTIVE_TIMEOUT`.

    Raises:
        VlmtoolError: they did not come.
    """
    if dist.is_initialized() or (launcher == "none" and strategy == "ddp"):
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if launcher == "none":
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=COLLECTIVE_TIMEOUT)
        return
    with meeting(os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")):
        store, rank, world_size = next(dist.rendezvous("env://", timeout=wait))
        store.set_timeout(COLLECTIVE_TIMEOUT)
        store = dist.PrefixStore("default_pg", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT)


@contextmanager
def group_of_one_ends() -> Iterator[None]:
    """What was made for this process alone is gone after the block: the next training may want none."""
    try:
        yield
    finally:
        if dist.is_initialized() and dist.get_world_size() == 1:
            dist.destroy_process_group()


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Mixed precision for a forward pass; none without a type."""
    return torch.autocast(device.type, dtype=dtype) if dtype is not None else nullcontext()


def compute_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The autocast type for a recipe's `runtime.dtype`; None computes in the weights' own type, float32.

    Raises:
        UsageError: the device cannot.
    """
    if name == "auto":
        if device.type == "cpu":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if name == "float16" and device.type == "cpu":
        raise UsageError("runtime.dtype = 'float16' needs a GPU.\nUse 'bfloat16' or 'float32' on a CPU.")
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def weight_dtype(device: torch.device) -> torch.dtype | str:
    """Type of frozen weights: the checkpoint's on a GPU, float32 on a CPU."""
    return torch.float32 if device.type == "cpu" else "auto"
