"""How much memory this process has had."""

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_rss() -> int:
    """Most bytes of RAM that this process had at once.

    Linux's VmHWM; the getrusage() of elsewhere also counts what the process that started this one had, as it forked.

    Source: proc(5), getrusage(2).
    """
    for line in STATUS.read_text().splitlines() if STATUS.is_file() else ():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return 1024 * int(value.split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
