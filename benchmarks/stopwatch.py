"""Times a script that trains with torch: from the end of one optimiser step to the end of the next, waiting left out.

    python stopwatch.py PORT NAME STRIDE FILE script.py ARGS

The script runs as it is. After its first step, and then after each number of steps that STRIDE divides, it waits for
its turn (`turns.py`). FILE has a line for each step: seconds, and seconds of the process's CPU.
"""

import runpy
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from asker import Asker


def main() -> None:
    port, name, stride, file, script, *words = sys.argv[1:]
    sys.argv = [script, *words]
    sys.path[0] = str(Path(script).resolve().parent)  # as if it had been started itself
    with open(file, "w", buffering=1) as times:
        watch(times, int(port), name, int(stride))
        runpy.run_path(script, run_name="__main__")


def watch(times: TextIO, port: int, name: str, stride: int) -> None:
    """Have torch tell of each step of any optimiser from now on."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    began, steps, asker = _now(), 0, None

    def stepped(*_: Any) -> None:
        nonlocal began, steps, asker
        wall, cpu = _now()
        times.write(f"{wall - began[0]} {cpu - began[1]}\n")
        steps += 1
        asker = asker or Asker(port, name, stride)
        if steps == 1 or steps % stride == 0:
            asker.wait()
        began = _now()

    register_optimizer_step_post_hook(stepped)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()
