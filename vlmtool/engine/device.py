"""Which device and number types a process uses."""

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vlmtool.utils.errors import UsageError

# Longer than any rank works alone before the first step. A dead rank is noticed at once, a hanging one by `watch`.
COLLECTIVE_TIMEOUT = timedelta(days=7)


def pick_device() -> torch.device:
    """This rank's GPU, or the CPU."""
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def start_process_group(launcher: str, device: torch.device, strategy: str = "ddp") -> None:
    """Join the other processes. mmengine would ask for a GPU; joining before it is built keeps it from that.

    Args:
        strategy: all but ddp need a group also of one process.
    """
    if dist.is_initialized() or (launcher == "none" and strategy == "ddp"):
        return
    alone: dict[str, Any] = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if launcher == "none" else {}
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT, **alone)


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
