"""Two processes that train together against two that train alone at the same time: what working together costs.

Both ways the machine does the same work: each process has the same batches, together or alone, on one thread; they take
turns (`turns.py`). The two have different batches of like length, so that the one with less to do waits for the other,
or, with `--same`, each the same batches as the other.

    python benchmarks/scaling.py --assets DIR
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import assets
from train_throughput import Work
from turns import Training, in_turns

from vlmtool.data.sampler import Share, StepPlan, epoch_order

STRIDE = 3  # steps of a turn: a process that is alone and ends its turn first leaves the machine to the other


class Scaling(NamedTuple):
    """Two processes together, as parts of what they do alone: medians of the turns."""

    of_both: float
    """Samples per second by those of both alone."""
    waiting: float
    """What the two alone would reach of that, did they wait for each other after each step; the rest is sharing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, help="folder with model/, llava.json and pictures; made unless given")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--same", action="store_true", help="the same batches in both processes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.assets is None:
            assets.make(Path(name) / "assets", 192)
        sets = (f"runtime.strategy={arguments.strategy!r}",)
        work = Work((arguments.assets or Path(name) / "assets").resolve(), arguments.steps, STRIDE, sets=sets)
        found = compare(work, Path(name), arguments.same)
    print(f"two processes together: {found.of_both:.3f} of two alone, {found.waiting:.3f} were it for waiting alone")


def compare(work: Work, folder: Path, same: bool) -> Scaling:
    """Train together and alone, in turns.

    Args:
        work: its steps and warm-up are multiples of `STRIDE`.
        same: whether both processes have the same batches.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = json.loads((work.assets / "llava.json").read_text())
    groups = _like_lengths(records, 2 * work.batch_size, work.steps)
    ours = [[group[0 if same else rank :: 2] for group in groups] for rank in range(2)]
    shared = [first + second for first, second in zip(*ours, strict=True)]
    alone = replace(work, sets=())
    trainings = {
        "together": Training(_drawing(work, folder / "together.json", shared), "random", "together", 2),
        **{
            f"alone{rank}": Training(_drawing(alone, folder / f"alone{rank}.json", own), "random", "alone")
            for rank, own in enumerate(ours)
        },
    }
    found = in_turns(trainings, folder, STRIDE)
    done = {name: (figures["tokens"], figures["supervised"]) for name, figures in found.items()}
    if done["together"] != tuple(map(sum, zip(done["alone0"], done["alone1"], strict=True))):
        raise AssertionError(f"not the same work: {done}")
    seconds = {name: figures["seconds"][work.warmup :] for name, figures in found.items()}
    seconds["waiting"] = [max(pair) for pair in zip(seconds["alone0"], seconds["alone1"], strict=True)]
    turns = {
        name: [sum(steps[first : first + STRIDE]) for first in range(0, len(steps), STRIDE)]
        for name, steps in seconds.items()
    }
    rows = list(zip(*(turns[name] for name in (*trainings, "waiting")), strict=True))
    for number, (both, first, second, waiting) in enumerate(rows, start=1):
        told = f"alone {first:.2f} and {second:.2f} s, {waiting:.2f} s were they to wait for each other"
        print(f"{number}. together {both:.2f} s, {told}", flush=True)
    return Scaling(
        statistics.median(2 / both / (1 / first + 1 / second) for both, first, second, _ in rows),
        statistics.median(2 / waiting / (1 / first + 1 / second) for _, first, second, waiting in rows),
    )


def _like_lengths(records: Sequence[dict[str, Any]], size: int, count: int) -> list[list[dict[str, Any]]]:
    """`count` groups of `size` records, the longest first, from all lengths; some twice where there are few."""
    ordered = sorted(records, key=assets.num_tokens, reverse=True)
    groups = [ordered[first : first + size] for first in range(0, len(ordered) - size + 1, size)]
    return [groups[number * len(groups) // count] for number in range(count)]


def _drawing(work: Work, file: Path, batches: Sequence[list[dict[str, Any]]]) -> Work:
    """Training on just these batches in this order, whose records are laid out as its random order will draw them."""
    wanted = [record for batch in batches for record in batch]
    order = epoch_order(StepPlan((Share(len(wanted)),), 1, 1, 1, seed=0), 0)
    placed = dict(zip(order, wanted, strict=True))
    file.write_text(json.dumps([placed[place] for place in range(len(wanted))]))
    return replace(work, data=file)


if __name__ == "__main__":
    main()
