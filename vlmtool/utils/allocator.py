"""Memory that comes and goes with every batch, kept by the process."""

import ctypes
import sys

# Of malloc.h, mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST = 256 << 20  # bytes; larger blocks go back when they are freed, as before
_AT_THE_TOP = 2**31 - 1  # bytes, the most that mallopt takes


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the next batch; without it the kernel hands out each page anew.

    For work on the CPU, whose activations are large, short-lived and always of like size. The process keeps the memory
    of its largest batch until it ends. Nothing happens where the C library is not glibc.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGEST)
        set_option(_M_TRIM_THRESHOLD, _AT_THE_TOP)
