"""Samples per second of vlmtool beside other trainers, on the same weights, data and machine, step by step in turns.

Nothing is installed here. Each peer is a command in a JSON file, which trains `{assets}` for `{steps}` steps of
`{batch}` samples on one thread, may write to `{out}`, and runs its script by `{stopwatch}`, so that it waits for its
turn after a step and all are timed alike (`stopwatch.py`). It prints a line `TIMING {…}` (or `FLOOR {…}`) with a JSON
object of what it knows of `peak_rss_mb` or `rss_mb`, `first_loss` and `last_loss` (or `loss0`, `lossN`), and of the
supervised tokens as `work.sup`.

    {"ms-swift": "env/bin/python {stopwatch} run_swift.py {assets} {out} --steps {steps} --bs {batch} --threads 1"}

    python benchmarks/peers.py peers.json --assets DIR --epochs 3

The first epoch is not counted, so each has had the same samples when the clock ends. Nor is the first step of an epoch
in any: XTuner's loop sleeps two seconds there.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train_throughput import ONE_THREAD, SETTINGS, Work
from turns import Entrant, Training, in_turns

HERE = Path(__file__).parent
BATCH = 4
BASE = "packed"  # the setting that all others stand beside
LINE = re.compile(r"(?:TIMING|FLOOR) ({.*})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", type=Path, help="JSON: {name: command}")
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--setting", choices=SETTINGS, action="append", default=[], help=f"of vlmtool, beside {BASE}")
    parser.add_argument("--only", action="append", help="names of peers; default: all")
    parser.add_argument("--epochs", type=int, default=3, help="that count")
    parser.add_argument("--stride", type=int, default=1, help="steps of a turn")
    given = parser.parse_args()
    preset = given.assets.resolve()
    with tempfile.TemporaryDirectory() as name:
        work = work_of(preset, given.epochs)
        found = compare(
            {setting: Training(work, setting, turn=setting) for setting in (BASE, *given.setting)},
            of_file(given.peers, work, Path(name), given.only), Path(name), given.stride,
        )  # fmt: skip
    print(f"{preset.name}, {work.steps} steps of {BATCH} samples, the last {work.steps - work.warmup} counted:\n")
    print("\n".join(table(found)))


def work_of(preset: Path, epochs: int) -> Work:
    """An epoch that does not count, and some that do."""
    epoch = len(json.loads((preset / "llava.json").read_text())) // BATCH
    return Work(preset, (1 + epochs) * epoch, epoch, BATCH)


@dataclass(frozen=True)
class Peer:
    """Another trainer.

    Args:
        text: its command, as the file has it.
        out: a folder that it may write to.
    """

    text: str
    work: Work
    turn: str
    out: Path
    num_processes: int = 1

    def prepared(self, folder: Path, port: int, asker: Mapping[str, Any]) -> tuple[Sequence[str], Mapping[str, str]]:
        """As `Entrant` has it."""
        self.out.mkdir()
        stopwatch = [HERE / "stopwatch.py", asker["port"], asker["name"], asker["stride"], self._times(folder)]
        text = self.text.format(
            stopwatch=shlex.join(map(str, stopwatch)), assets=shlex.quote(str(self.work.assets)),
            out=shlex.quote(str(self.out)), steps=self.work.steps, batch=self.work.batch_size,
        )  # fmt: skip
        return ["sh", "-c", text], {**os.environ, **ONE_THREAD}

    def figures(self, folder: Path, name: str, code: int, said: str) -> dict[str, Any] | None:
        """What it printed of itself and its stopwatch saw; None where it failed or made other steps."""
        lines, times = LINE.findall(said), self._times(folder)
        rows = (
            [[float(word) for word in line.split()] for line in times.read_text().splitlines()]
            if times.is_file()
            else []
        )
        if code or not lines or len(rows) != self.work.steps:
            return None
        told = json.loads(lines[-1])
        seconds, cpu_seconds = zip(*rows, strict=True)
        losses = told.get("first_loss", told.get("loss0")), told.get("last_loss", told.get("lossN"))
        return {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "peak_rss_mb": told.get("peak_rss_mb", told.get("rss_mb")),
            "supervised": told.get("work", {}).get("sup"),
            "losses": [value[0] if isinstance(value, list) and value else value for value in losses],
        }

    def _times(self, folder: Path) -> Path:
        return folder / f"{self.turn}.times"


def of_file(file: Path, work: Work, folder: Path, only: Sequence[str] | None) -> dict[str, Peer]:
    """Those that a file tells of, or some of them, by name."""
    known: dict[str, str] = json.loads(file.read_text())
    names = known if only is None else only
    return {name: Peer(known[name], work, name, folder / f"peer{number}") for number, name in enumerate(names)}


def compare(
    own: Mapping[str, Training], others: Mapping[str, Entrant], folder: Path, stride: int = 1
) -> dict[str, dict[str, Any]]:
    """Figures of each, by name, of the steps that count; `epoch_seconds` are of the counted steps of each epoch.

    Args:
        own: settings of vlmtool, the base among them.

    Raises:
        SystemExit: vlmtool failed; another that did is left out.
    """
    work = own[BASE].work
    found = in_turns({**{own_name(setting): one for setting, one in own.items()}, **others}, folder, stride)
    for figures in found.values():
        epochs = by_epoch(figures["seconds"], work.warmup)
        samples = work.batch_size * sum(map(len, epochs))
        figures["epoch_seconds"] = [sum(epoch) for epoch in epochs]
        figures["samples_per_s"] = samples / sum(figures["epoch_seconds"])
        figures["cpu_s_per_sample"] = sum(map(sum, by_epoch(figures["cpu_seconds"], work.warmup))) / samples
    return found


def by_epoch(values: Sequence[float], epoch: int) -> list[Sequence[float]]:
    """Of the steps of each epoch but the first, without the first step of each."""
    return [values[first + 1 : first + epoch] for first in range(epoch, len(values), epoch)]


def times_as_fast(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[float]:
    """How many times as fast one was as the other, in each epoch; their median is what is told of two."""
    return [theirs / ours for ours, theirs in zip(one["epoch_seconds"], other["epoch_seconds"], strict=True)]


def own_name(setting: str) -> str:
    """Of a line of the table."""
    return f"vlmtool, {setting}"


def table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Markdown."""
    lines = [
        f"| | samples/s | {own_name(BASE)}, is × | in each epoch | CPU s/sample | peak RSS, MB | supervised | losses |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in found.items():
        times = times_as_fast(found[own_name(BASE)], figures)
        cells = [f"{figures['samples_per_s']:.3g}", f"{statistics.median(times):.2f}"]
        cells.append(" ".join(f"{one:.2f}" for one in times))
        for key, form in (("cpu_s_per_sample", "{:.4f}"), ("peak_rss_mb", "{:,.0f}"), ("supervised", "{:,.0f}")):
            cells.append("–" if figures[key] is None else form.format(figures[key]))
        first, last = (
            "–" if value is None else f"{value:.4f}" for value in (figures["losses"][0], figures["losses"][-1])
        )
        lines.append(f"| {name} | {' | '.join(cells)} | {first} → {last} |")
    return lines


if __name__ == "__main__":
    main()
