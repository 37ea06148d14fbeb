"""Everything about speed that this machine can measure, as one table beside what was aimed at: `make bench`.

    python benchmarks/bars.py --peers peers.json --peer-assets DIR --write docs/benchmarks.md

Others are run where they are given (`peers.py`), with their assets: DIR has a folder for each of `s64` (64 pixels),
`s336` (336 pixels, a vocabulary of 8,000) and `s336v32k` (32,000). `--write` puts table, machine and date between two
marks of that page. About half an hour; the others come on top.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import assets
import kept_features
import peers
import scaling
import torch
from mixture import draw
from train_throughput import KEPT, SETTINGS, Work, measure, products_alone, with_features
from turns import Training, in_turns

from vlmtool.data.sampler import Share, StepPlan

BEGIN, END = "<!-- make bench -->", "<!-- /make bench -->"
FLOOR, XTUNER = "floor", "XTuner"  # how their names begin
NOT_KEPT = "length, compiled"  # the setting that makes the steps that KEPT makes
EPOCHS = {"s64": 4}  # for each that is asked for: they are short


class Aims(NamedTuple):
    """Ratios that a preset should reach; None: there is no aim.

    At random means packed: each step has the samples that it has padded, and the same loss.
    """

    fastest: float | None = None
    fastest_best: float | None = None
    memory: float | None = None
    xtuner: float | None = None
    xtuner_best: float | None = None
    floor: float | None = None
    """Padded, as the floor is."""
    kept: float | None = None
    """With features made beforehand, against the best without."""


AIMS = {
    "s336v32k": Aims(1.3, 1.5, 0.85, 3.5, 4, 0.97, 1.1),
    "s336": Aims(fastest=1.25),
    "s64": Aims(xtuner=1.2),
}


class Bar(NamedTuple):
    """What was measured, and what was aimed at."""

    what: str
    figure: float
    aim: float | None = None
    at_most: bool = False
    told: str = ""

    @property
    def verdict(self) -> str:
        """Whether the aim was reached."""
        if self.aim is None:
            return "–"
        reached = self.figure <= self.aim if self.at_most else self.figure >= self.aim
        return f"{'≤' if self.at_most else '≥'} {self.aim:g}: {'reached' if reached else '**missed**'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="JSON: {name: command}, as peers.py has it")
    parser.add_argument("--peer-assets", type=Path)
    parser.add_argument("--peers-alone", action="store_true", help="leave out what needs nobody else")
    parser.add_argument("--epochs", type=int, default=3, help="of the others' assets that count")
    parser.add_argument("--write", type=Path, help="page to put the table into")
    arguments = parser.parse_args()
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        bars: list[Bar] = []
        for bar in own_bars(Path(name)) if not arguments.peers_alone else ():
            print(f"{bar.what}: {bar.figure:.3g} ({bar.verdict}) {bar.told}", flush=True)
            bars.append(bar)
    if arguments.peers is not None:
        for preset in AIMS:
            with tempfile.TemporaryDirectory() as name:
                found = beside(arguments.peers, arguments.peer_assets / preset, Path(name), arguments.epochs)
            lines += [f"**{preset}**", "", *peers.table(found), ""]
            for bar in peer_bars(preset, found):
                print(f"{bar.what}: {bar.figure:.3g} ({bar.verdict}) {bar.told}", flush=True)
                bars.append(bar)
    text = "\n".join([*head(), *bar_table(bars), "", *lines])
    print(text)
    if arguments.write is not None:
        write(arguments.write, text)


def own_bars(folder: Path) -> Iterator[Bar]:
    """What needs nobody else."""
    assets.make(folder / "mixture", 192)
    work = Work(folder / "mixture", steps=14, warmup=2, batch_size=16)
    trainings = {setting: Training(work, setting, turn=setting) for setting in ("random", "packed", "length", "bf16")}
    runs = in_turns(trainings, folder / "turns")
    rate = {setting: found["samples_per_s"] for setting, found in runs.items()}
    tokens = {setting: found["tokens_per_s"] for setting, found in runs.items()}
    losses = {setting: found["losses"] for setting, found in runs.items()}
    same = max(abs(a - b) / a for a, b in zip(losses["random"], losses["packed"], strict=True))
    of_cpu = runs["random"]["cpu_s_per_sample"] / runs["packed"]["cpu_s_per_sample"]
    here, everywhere = padding(work)
    told = f"by CPU seconds {of_cpu:.3g}; padded, {here:.3g} positions a token ({everywhere:.3g} in the whole mixture)"
    yield Bar(
        "packed against 16 at random", rate["packed"] / rate["random"], 1.5, told=f"{told}; losses {same:.0e} apart"
    )
    yield Bar("packed against 16 of like length, by the token", tokens["packed"] / tokens["length"])
    curve = " ".join(f"{a:.3f}/{b:.3f}" for a, b in zip(losses["bf16"], losses["random"], strict=True))
    yield Bar("bfloat16 against float32 on this CPU", rate["bf16"] / rate["random"], told=f"losses {curve}")
    packed = runs["packed"]
    floor = products_alone(work, packed["tokens"] / packed["samples"], packed["supervised_each"])
    yield Bar("packed, of its matrix products alone", rate["packed"] * floor)
    waits = [measure(waiting(work), "length", folder / f"wait{n}")["data_wait"] for n in range(3)]
    yield Bar("wait for data with a worker, % of a step", 100 * statistics.median(waits), 2, at_most=True)
    kept = kept_features.epochs(folder / "features", 12, "float32")
    share, (with_kept, without) = kept.encoder / kept.without, kept.losses
    told = f"encoder {share:.0%} of a step; last losses {with_kept:.5f}, without {without:.5f}"
    yield Bar("projector pretraining, second epoch with kept features", kept.first / kept.second, 2, told=told)
    for same, batches in ((True, "both the same batches"), (False, "batches of like length")):
        found = scaling.compare(Work(folder / "mixture", 48, scaling.STRIDE), folder / f"scaling_{same}", same)
        told = f"{found.waiting:.3g}, did the two alone no more than wait for each other after each step"
        yield Bar(f"two processes against two alone, {batches}", found.of_both, 0.95, told=told)


def padding(work: Work) -> tuple[float, float]:
    """Padded positions for each token where batches are random: in the steps that count, and in the whole mixture."""
    records = json.loads((work.assets / "llava.json").read_text())
    lengths = [assets.num_tokens(record) for record in records]
    plan = StepPlan((Share(len(lengths)),), work.batch_size, 1, 1, seed=0)
    steps = [[lengths[index] for index in plan.step_samples(step)] for step in range(work.warmup, work.steps)]
    many = [drawn.text + assets.PATCHES * drawn.pictures for drawn in draw(2_000 * work.batch_size, assets.PATCHES)]
    batches = [many[first : first + work.batch_size] for first in range(0, len(many), work.batch_size)]
    here, everywhere = (
        sum(len(batch) * max(batch) for batch in some) / sum(map(sum, some)) for some in (steps, batches)
    )
    return here, everywhere


def waiting(work: Work) -> Work:
    """Batches made by a worker while the model runs."""
    return replace(work, sets=("data.num_workers=1",))


def beside(commands: Path, preset: Path, folder: Path, epochs: int) -> dict[str, dict[str, Any]]:
    """Figures of vlmtool's settings and of the others that an aim is about, all in turns."""
    work = peers.work_of(preset.resolve(), epochs * EPOCHS.get(preset.name, 1))
    own = {setting: Training(work, setting, turn=setting) for setting in (peers.BASE, "random", "length")}
    made_in = 0.0
    if AIMS[preset.name].kept is not None:
        with_kept, made_in = with_features(work, folder)
        own |= {setting: Training(work, setting, turn=setting) for setting in ("compiled", NOT_KEPT)}
        own[KEPT] = Training(with_kept, KEPT, turn=KEPT)
    names = list(json.loads(commands.read_text()))
    chosen = {
        "s336": [name for name in names if not name.startswith((FLOOR, XTUNER))],
        "s64": [name for name in names if name.startswith(XTUNER)],
    }.get(preset.name, names)
    stride = work.warmup if preset.name == "s64" else 1  # its steps are too short to stand alone
    found = peers.compare(own, peers.of_file(commands, work, folder, chosen), folder, stride)
    return {name: {**figures, "made_in": made_in} for name, figures in found.items()}


def peer_bars(preset: str, found: dict[str, dict[str, Any]]) -> Iterator[Bar]:
    """Ratios to the others; XTuner puts samples of like length together, so it stands against both orders.

    Args:
        found: of vlmtool's settings and of the others.
    """
    own = {setting: found[peers.own_name(setting)] for setting in SETTINGS if peers.own_name(setting) in found}
    others = {name: found[name] for name in found if name not in map(peers.own_name, own)}

    def faster(setting: str, than: dict[str, Any]) -> float:
        return statistics.median(peers.times_as_fast(own[setting], than))

    base, aims = own[peers.BASE], AIMS[preset]
    exact = [setting for setting in own if setting not in (KEPT, "random")]
    best = max(exact, key=lambda setting: faster(setting, base))
    trainers = [name for name in others if not name.startswith((FLOOR, XTUNER))]
    if trainers:
        fastest = min(trainers, key=lambda name: faster(peers.BASE, others[name]))
        leanest = min(trainers, key=lambda name: others[name]["peak_rss_mb"])
        yield Bar(f"{preset}, at random, against {fastest}", faster(peers.BASE, others[fastest]), aims.fastest)
        what = f"{preset}, best exact ({best}), against {fastest}"
        yield Bar(what, faster(best, others[fastest]), aims.fastest_best)
        less = base["peak_rss_mb"] / others[leanest]["peak_rss_mb"]
        yield Bar(f"{preset}, at random, peak memory against {leanest}", less, aims.memory, at_most=True)
    for name, figures in others.items():
        if name.startswith(XTUNER):
            yield Bar(f"{preset}, at random, against {name}", faster(peers.BASE, figures), aims.xtuner)
            yield Bar(f"{preset}, best exact ({best}), against {name}", faster(best, figures), aims.xtuner_best)
        elif name.startswith(FLOOR):
            yield Bar(f"{preset}, at random, padded, against the {name}", faster("random", figures), aims.floor)
    if KEPT in own:
        with_kept, without = own[KEPT]["losses"][-1], own[NOT_KEPT]["losses"][-1]
        told = f"made in {own[KEPT]['made_in']:.0f} s; last losses {with_kept:.5f}, without {without:.5f}"
        what = f"{preset}, features made beforehand, against"
        yield Bar(f"{what} best exact ({best})", faster(KEPT, own[best]), aims.kept, told=told)
        yield Bar(f"{what} at random", faster(KEPT, base), told=told)


def head() -> list[str]:
    """Machine and date."""
    cores = len(os.sched_getaffinity(0))
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    return [f"{datetime.date.today()}, {cores} cores of {cpu}, torch {torch.__version__}, float32, one thread.", ""]


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


def bar_table(bars: list[Bar]) -> list[str]:
    """Markdown."""
    rows = [f"| {bar.what} | {bar.figure:.3g} | {bar.verdict} | {bar.told} |" for bar in bars]
    return ["| | | aim | |", "|---|---|---|---|", *rows]


def write(page: Path, text: str) -> None:
    """Put `text` between the page's marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
