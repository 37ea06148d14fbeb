"""Samples per second of `vlmtool train`, as the real command runs; one JSON line a run.

The work is a folder with `model/` (a LLaVA of Hugging Face's class, random weights), `llava.json` and its pictures;
without `--assets` one is made (`assets.py`). Trained are LoRA adapters (r 8, alpha 16) on q_proj and v_proj of the
language model, in float32, on one thread, the next batch made in the same process, as `peers.py` has the others do it.

    python benchmarks/train_throughput.py --assets DIR --steps 12 --setting random
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECIPE = """
llm = dict(path={model!r}, template={template!r}, lora=dict(r=8, alpha=16, target_modules=["q_proj", "v_proj"]))
vision_encoder = dict(path={model!r}, freeze=True)
projector = dict(depth=2, freeze=True)
init_from = {model!r}
data = dict(path={data!r}, image_folder={images!r}, num_workers=0)
schedule = dict(lr=2e-4, warmup_ratio=0.0, decay="constant")
runtime = dict(dtype="float32")
"""
SETTINGS = {
    "random": [],
    "length": ["data.sampler='length'"],
    "packed": ["schedule.pack_to=4096"],
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, help="folder with model/, llava.json and pictures")
    parser.add_argument("--setting", choices=[*SETTINGS, "all"], default="all")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe, over these")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=5, help="steps before the clock starts")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--timing", action="store_true", help="print a line as peers.py reads it")
    parser.add_argument("--template", help="chat template; the folder's own unless given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for setting in SETTINGS if arguments.setting == "all" else [arguments.setting]:
            figures = measure(arguments, setting, Path(name))
            print(f"TIMING {json.dumps(as_timing(figures))}" if arguments.timing else json.dumps(figures), flush=True)


def as_timing(figures: dict[str, Any]) -> dict[str, Any]:
    """Under the names of `peers.py`."""
    return {
        **figures,
        "samples_per_s_steady": figures["samples_per_s"],
        "work": {"sup": figures["supervised"]},
        "first_loss": figures["losses"][:1],
        "last_loss": figures["losses"][1:],
    }


def measure(arguments: argparse.Namespace, setting: str, folder: Path) -> dict[str, Any]:
    """Train once; what the meter saw."""
    assets, recipe, out = arguments.assets.resolve(), folder / "throughput.py", folder / f"{setting}.json"
    model = str(assets / "model")
    text = RECIPE.format(model=model, template=arguments.template, data=str(assets / "llava.json"), images=str(assets))
    recipe.write_text(text)
    meter = {"type": "benchmarks.meter.Meter", "file": str(out), "warmup": arguments.warmup}
    sets = [
        *SETTINGS[setting],
        f"schedule.batch_size={arguments.batch_size}",
        f"schedule.max_steps={arguments.steps}",
        f"mmengine=dict(custom_hooks=[{meter!r}])",
        *arguments.set,
    ]
    run(["train", str(recipe), "--work-dir", str(folder / setting), *(word for s in sets for word in ("--set", s))])
    return {"setting": setting, "batch": arguments.batch_size, **json.loads(out.read_text())}


def run(words: Sequence[str]) -> None:
    """`vlmtool WORDS` on one thread.

    Raises:
        SystemExit: it failed.
    """
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "vlmtool", *words], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"vlmtool {words[0]} ended with {done.returncode}:\n{done.stderr}")


if __name__ == "__main__":
    main()
