"""Samples per second of vlmtool beside other trainers, on the same weights, data and machine, in turn: A B A C A, …

Another trainer's figure stands against the mean of the two runs of vlmtool around it, as the machine's speed changes.
Nothing is installed here. Each peer is a command in a JSON file, which trains `{assets}` for `{steps}` steps of
`{batch}` samples on one thread, may write to `{out}`, and prints a line `TIMING {…}` (or `FLOOR {…}`) with a JSON
object: the samples per second of the warm steps as `samples_per_s_steady` or `sps`, and what it knows of `peak_rss_mb`
or `rss_mb`, `first_loss` and `last_loss` (or `loss0`, `lossN`), and of the supervised tokens as `work.sup`.

    {"ms-swift": "swift_env/bin/python run_swift.py {assets} {out} --steps {steps} --bs {batch} --threads 1"}

    python benchmarks/peers.py peers.json --assets DIR --steps 12 --repeats 3
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train_throughput import ONE_THREAD, SETTINGS

HERE = Path(__file__).parent
LINE = re.compile(r"(?:TIMING|FLOOR) ({.*})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", type=Path, help="JSON: {name: command}")
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--setting", choices=SETTINGS, default="random", help="of vlmtool")
    parser.add_argument("--only", action="append", help="names of peers; default: all")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    found = in_turn(given.peers, given.assets, given.setting, given.only, given.steps, given.batch_size, given.repeats)
    print(f"{given.assets.name}, batch {given.batch_size}, {given.steps} steps, medians of {given.repeats}:\n")
    print("\n".join(table(found)))


def in_turn(
    peers: Path, assets: Path, setting: str, only: Sequence[str] | None, steps: int, batch: int, repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Figures of each run, by name; vlmtool's first. The others' `times` is how many times as fast vlmtool was.

    Args:
        peers: JSON, {name: command}; `only` some of them.
        setting: of vlmtool.

    Raises:
        SystemExit: vlmtool itself failed; of another that did, no figures are kept.
    """
    known: dict[str, str] = json.loads(peers.read_text())
    commands = {own_name(setting): ours(setting)} | {name: known[name] for name in only or known}
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def note(name: str) -> dict[str, Any] | None:
        with tempfile.TemporaryDirectory() as out:
            figures = run(commands[name].format(assets=assets.resolve(), out=out, steps=steps, batch=batch))
        print(f"{name}: {figures or 'no figures'}", file=sys.stderr, flush=True)
        if figures:
            found[name].append(figures)
        return figures

    own, *others = commands

    def own_rate() -> float:
        figures = note(own)
        if figures is None:
            raise SystemExit(f"{own} failed; what it said stands above.")
        return figures["samples_per_s"]

    for _ in range(repeats):
        before = own_rate()
        for name in others:
            figures, after = note(name), own_rate()
            if figures is not None:
                figures["times"] = (before + after) / 2 / figures["samples_per_s"]
            before = after
    return found


def own_name(setting: str) -> str:
    """Of a line of the table."""
    return f"vlmtool, {setting}"


def times(found: dict[str, list[dict[str, Any]]], name: str) -> float:
    """How many times as fast as this one vlmtool was: the median of the turns."""
    return statistics.median(one["times"] for one in found[name])


def ours(setting: str) -> str:
    """vlmtool as one of the commands."""
    script = shlex.quote(str(HERE / "train_throughput.py"))
    return (
        f"{shlex.quote(sys.executable)} {script} --assets {{assets}} --steps {{steps}} --batch-size {{batch}} "
        f"--setting {setting} --timing"
    )


def run(command: str) -> dict[str, Any] | None:
    """What a command printed of itself, in one set of names; None where it failed."""
    done = subprocess.run(
        ["sh", "-c", command], env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False
    )
    lines = LINE.findall(done.stdout) or LINE.findall(done.stderr)
    if not lines:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    said = json.loads(lines[-1])
    first, last = said.get("first_loss", said.get("loss0")), said.get("last_loss", said.get("lossN"))
    return {
        "samples_per_s": said.get("samples_per_s_steady", said.get("sps")),
        "peak_rss_mb": said.get("peak_rss_mb", said.get("rss_mb")),
        "cpu_s_per_sample": said.get("cpu_s_per_sample"),
        "supervised": said.get("work", {}).get("sup"),
        "losses": [value[0] if isinstance(value, list) and value else value for value in (first, last)],
    }


def table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Markdown: medians, and how many times as fast vlmtool was in the runs around each, where it was measured."""
    lines = [
        "| | samples/s | vlmtool is × | CPU s/sample | peak RSS, MB | supervised | losses |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        rate = statistics.median(one["samples_per_s"] for one in runs)
        cells = [f"{rate:.3g}", f"{times(found, name):.2f}" if "times" in runs[0] else "–"]
        for key, form in (("cpu_s_per_sample", "{:.4f}"), ("peak_rss_mb", "{:,.0f}"), ("supervised", "{:,.0f}")):
            known = [one[key] for one in runs if one[key] is not None]
            cells.append(form.format(statistics.median(known)) if known else "–")
        losses = " → ".join("–" if value is None else f"{value:.4f}" for value in runs[0]["losses"])
        lines.append(f"| {name} | {' | '.join(cells)} | {losses} |")
    return lines


if __name__ == "__main__":
    main()
