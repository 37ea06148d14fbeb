"""The second epoch of projector pretraining with kept features against the first, which makes them.

    python benchmarks/kept_features.py

The encoder is most of a step here (`assets.py --large-encoder`); each picture comes once in an epoch.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import assets
import torch
from train_throughput import Work, command, environment, finished
from transformers import LlavaForConditionalGeneration

FROZEN = ("llm.lora=None", "llm.freeze=True", "projector.freeze=False")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="in an epoch")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = epochs(Path(name), arguments.steps, arguments.dtype)
    print(f"first epoch {found.first:.3f} s a step, second {found.second:.3f} s: {found.first / found.second:.2f} ×")
    print(f"without kept features {found.without:.3f} s; the encoder by itself {found.encoder:.3f} s")
    print("loss of the second epoch's last step with kept features, and without:", *found.losses)


class Epochs(NamedTuple):
    """Median seconds of a step."""

    first: float
    second: float
    without: float
    """Of a run that keeps nothing."""
    encoder: float
    """Of the encoder's forward pass alone, for as many pictures as a step has on average."""
    losses: list[float]
    """Of the last step, with kept features and without."""


def epochs(folder: Path, steps: int, dtype: str) -> Epochs:
    """Two epochs with kept features, and two without."""
    batch = 4
    assets.make(folder / "assets", steps * batch, pictures=steps * batch, large_encoder=True)
    kept = f"vision_encoder.cache=dict(dtype={dtype!r}, folder={str(folder / 'features')!r})"
    rows = {}
    for name, sets in (("kept", (*FROZEN, kept)), ("plain", FROZEN)):
        work = Work(folder / "assets", 2 * steps, 1, batch, sets=sets)
        words, out = command(work, "random", folder, name)
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
        finished(done.returncode, done.stderr, out)
        log = folder / f"random{name}" / "train_log.jsonl"
        rows[name] = [row for row in map(json.loads, log.read_text().splitlines()) if "seconds" in row]
    kept_for, plain_for = ([row["seconds"] for row in rows[name]] for name in ("kept", "plain"))
    records = json.loads((folder / "assets" / "llava.json").read_text())
    pictures = batch * sum("image" in record for record in records) / len(records)
    return Epochs(
        statistics.median(kept_for[1:steps]), statistics.median(kept_for[steps:]), statistics.median(plain_for[1:]),
        pictures * seconds_of_encoder(folder / "assets" / "model"), [rows[name][-1]["loss"] for name in rows],
    )  # fmt: skip


@torch.no_grad()
def seconds_of_encoder(model: Path) -> float:
    """A picture's way through the encoder up to the layer that is read, on one thread."""
    torch.set_num_threads(1)
    tower = LlavaForConditionalGeneration.from_pretrained(model, dtype=torch.float32).model.vision_tower
    layers = max((module for module in tower.modules() if isinstance(module, torch.nn.ModuleList)), key=len)
    del layers[-1]  # -2 is read
    pictures = torch.zeros(4, 3, tower.config.image_size, tower.config.image_size)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        tower(pictures)
        times.append(time.perf_counter() - start)
    return min(times) / len(pictures)


if __name__ == "__main__":
    main()
