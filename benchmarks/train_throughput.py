"""Samples per second of `vlmtool train`, as the real command runs, and of its matrix products alone; JSON lines.

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
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import assets
import torch
from transformers import LlavaForConditionalGeneration

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
KEPT = "kept"
SETTINGS = {
    "random": [],
    "length": ["data.sampler='length'"],
    "packed": ["schedule.pack_to=4096"],
    "compiled": ["schedule.pack_to=4096", "runtime.compile=True"],
    "length, compiled": ["data.sampler='length'", "runtime.compile=True"],
    KEPT: ["data.sampler='length'", "runtime.compile=True"],  # and features that were made beforehand
    "bf16": ["runtime.dtype='bfloat16'"],
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Work:
    """What is trained, and for how long.

    Args:
        warmup: steps before the clock starts.
        template: chat template; the folder's own unless given.
        sets: of the recipe, over the setting's.
        data: records; the folder's own unless given.
    """

    assets: Path
    steps: int = 12
    warmup: int = 5
    batch_size: int = 4
    template: str | None = None
    sets: Sequence[str] = ()
    data: Path | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, help="folder with model/, llava.json and pictures")
    parser.add_argument("--setting", choices=[*SETTINGS, "all"], default="all")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe, over these")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=5, help="steps before the clock starts")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--template", help="chat template; the folder's own unless given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.assets is None:
            assets.make(Path(name) / "assets", 128)
        work = Work(
            (arguments.assets or Path(name) / "assets").resolve(), arguments.steps, arguments.warmup,
            arguments.batch_size, arguments.template, arguments.set,
        )  # fmt: skip
        for setting in SETTINGS if arguments.setting == "all" else [arguments.setting]:
            figures = measure(work, setting, Path(name))
            print(json.dumps(figures), flush=True)
        seconds = products_alone(work, figures["tokens"] / figures["samples"], figures["supervised_each"])
        print(json.dumps({"setting": "matrix products alone", "samples_per_s": 1 / seconds}))


def measure(work: Work, setting: str, folder: Path) -> dict[str, Any]:
    """Train once; what the meter saw, and the seconds in which kept features were made."""
    made_in = None
    if setting == KEPT:
        work, made_in = with_features(work, folder)
    words, out = command(work, setting, folder)
    done = _run(words)
    return {**finished(done.returncode, done.stderr, out), "made_in": made_in}


def with_features(work: Work, folder: Path) -> tuple[Work, float]:
    """The same with features that were made beforehand, and the seconds in which they were."""
    kept = f"vision_encoder.cache=dict(dtype='float32', folder={str(folder / 'features')!r})"
    work = replace(work, sets=(*work.sets, kept))
    words, _ = command(work, KEPT, folder)
    train = words.index("train")
    start = time.perf_counter()
    _run([*words[:train], "data", "cache", words[train + 1], *words[words.index("--set") :]])
    return work, time.perf_counter() - start


def _run(words: list[str]) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return done


def command(work: Work, setting: str, folder: Path, name: str = "", **meter: Any) -> tuple[list[str], Path]:
    """The training, and the file that its figures will be in.

    Args:
        name: of the run, where several have the same setting.
        meter: more that the meter is told.
    """
    recipe, out = folder / f"{setting}{name}.py", folder / f"{setting}{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    model = str(work.assets / "model")
    recipe.write_text(RECIPE.format(
        model=model, template=work.template, data=str(work.data or work.assets / "llava.json"), images=str(work.assets)
    ))  # fmt: skip
    hook = {"type": "benchmarks.meter.Meter", "file": str(out), "warmup": work.warmup, **meter}
    sets = [
        *SETTINGS[setting],
        f"schedule.batch_size={work.batch_size}",
        f"schedule.max_steps={work.steps}",
        f"mmengine=dict(custom_hooks=[{hook!r}])",
        *work.sets,
    ]
    run_folder = folder / f"{setting}{name}"
    options = [word for one in sets for word in ("--set", one)]
    return [sys.executable, "-m", "vlmtool", "train", str(recipe), "--work-dir", str(run_folder), *options], out


def environment(**more: str) -> dict[str, str]:
    """One thread a process, and the meter at hand."""
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT), **more}


def finished(code: int, said: str, out: Path) -> dict[str, Any]:
    """The figures of a training that has ended.

    Raises:
        SystemExit: it failed.
    """
    if code:
        raise SystemExit(f"vlmtool train ended with {code}:\n{said}")
    return {"setting": out.stem, **json.loads(out.read_text())}


def products_alone(work: Work, tokens: float, supervised: float) -> float:
    """Seconds for a sample's matrix products with the frozen weights: no attention, no adapters, nothing between them.

    As in training: forward and back through the language model's blocks for each token and through its head for each
    supervised one, forward through the encoder's blocks up to the layer that is read and the projector.
    """
    torch.set_num_threads(1)
    model = LlavaForConditionalGeneration.from_pretrained(work.assets / "model", dtype=torch.float32)
    tower, blocks = model.model.vision_tower, model.model.language_model.layers
    patches = (tower.config.image_size // tower.config.patch_size) ** 2
    layers = max((module for module in tower.modules() if isinstance(module, torch.nn.ModuleList)), key=len)
    counts = [
        (layers[: len(layers) + 1 + model.config.vision_feature_layer], patches + 1, False),
        ([model.model.multi_modal_projector], patches, False),
        (blocks, round(work.batch_size * tokens), True),
        ([model.lm_head], round(work.batch_size * supervised), True),
    ]
    total = 0.0
    with torch.no_grad():
        for parts, rows, both_ways in counts:
            weights = [m.weight for part in parts for m in part.modules() if isinstance(m, torch.nn.Linear)]
            inputs = {size: torch.ones(max(1, rows), size) for weight in weights for size in weight.shape}
            times = []
            for _ in range(4):
                start = time.perf_counter()
                for weight in weights:
                    torch.mm(inputs[weight.shape[1]], weight.T)
                    if both_ways:
                        torch.mm(inputs[weight.shape[0]], weight)
                times.append(time.perf_counter() - start)
            total += min(times) / (work.batch_size if both_ways else 1)
    return total


if __name__ == "__main__":
    main()
