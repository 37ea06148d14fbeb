"""A few real steps of a training, for what no estimate tells: the time of a step, and the peak of memory."""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vlmtool.engine.hooks.progress import LOG_FILE
from vlmtool.engine.log import read_log
from vlmtool.engine.resources import size
from vlmtool.utils.checklist import Row, counted

# Nothing but steps: what is asked, scored or validated now and then has its own time.
BARE = (
    "schedule.log_every=1",
    "schedule.save_every=None",
    "schedule.save_epochs=False",
    "schedule.eval=()",
    "data.val_path=None",
    "data.sample_prompts=()",
)


def trial_rows(config: str, overrides: Sequence[str], steps: int, total: int | None) -> list[Row]:
    """What `steps` real steps took, after one that is not counted, which also warms up; nothing of them stays.

    They are the first of the run, by the real command, with as many processes as the environment says.

    Args:
        total: steps of the whole run, where it is known.
    """
    with tempfile.TemporaryDirectory(prefix="vlmtool_trial_") as folder:
        sets = [*overrides, *BARE, f"schedule.max_steps={steps + 1}"]
        words = [word for one in sets for word in ("--set", one)]
        command = [sys.executable, "-m", "vlmtool", "train", config, "--work-dir", folder, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        rows = list(read_log(Path(folder) / LOG_FILE))
    if done.returncode or len(rows) < 2:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        place = next((place for place, line in enumerate(lines) if line.startswith("Error: ")), len(lines) - 1)
        error, remedy = [*lines[place : place + 2], "", ""][:2]
        told = f"the training ended with {done.returncode}: {error.removeprefix('Error: ')}"
        return [Row("error", "real steps", told, remedy or "Mend that first.")]
    seconds = statistics.median(row["seconds"] for row in rows[1:])
    told = f"{seconds:.3g} s, the median of {counted(len(rows) - 1, 'real step')}"
    if total is not None:
        told += f"; {_hours(seconds * total)} for all {total:,}"
    peak = size(1e9 * max(row["peak_memory_gb"] for row in rows))
    memory = f"{peak} in the steps taken: measured, and so with all libraries"
    return [Row("ok", "step time", told), Row("ok", "peak memory", memory)]


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{seconds / 60:.1f} min"
