"""The demo's commands: printed as a user would type them, then run as real processes."""

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from vlmtool.recipe.load import load_recipe
from vlmtool.utils.errors import VlmtoolError
from vlmtool.utils.terminal import err

DEFAULT_WORK_DIR = Path("work_dirs") / "demo"  # what the demo's recipes name


@dataclass(frozen=True)
class Step:
    """One command, as a user types it, with what it is for."""

    title: str
    command: str


def demo_steps(work_dir: Path, seed: int) -> list[Step]:
    """Everything from data to score, in order."""
    at = {name: shlex.quote(str(work_dir / name)) for name in ("data", "pretrain_hf", "hf", "merged")}
    scores = shlex.quote(str(work_dir / "mmbench"))
    blank = shlex.quote(str(work_dir / "mmbench_blank"))
    ask = "--question 'Describe the picture.' --question 'What colour is the object?' --temperature 0"
    score = f"vlmtool mmbench {at['merged']} --batch-size 64 --data-path {at['data']}"
    return [
        Step("Draw the pictures and write the data", f"python -m vlmtool.demo.data {at['data']} --seed {seed}"),
        Step("Stage 1: align the projector on captions and choices", _train("demo_pretrain", work_dir, seed)),
        Step("A model folder of the first stage, to compare", _convert("demo_pretrain", work_dir, seed, "pretrain_hf")),
        Step("Stage 2: QLoRA on questions", _train("demo_finetune", work_dir, seed)),
        Step("From the checkpoint to a model folder", _convert("demo_finetune", work_dir, seed, "hf")),
        Step("Merge the adapters into the weights", f"vlmtool convert merge {at['hf']} {at['merged']}"),
        Step("Ask it about a new picture", f"vlmtool chat {at['merged']} --image {at['data']}/images/test.jpg {ask}"),
        Step("Score it on a benchmark in MMBench's format", f"{score}/mmbench.tsv --work-dir {scores}"),
        Step("The same with blanked pictures", f"{score}/mmbench_blank.tsv --work-dir {blank}"),
    ]


def _train(recipe: str, work_dir: Path, seed: int) -> str:
    folder = shlex.quote(str(work_dir / recipe.removeprefix("demo_")))
    return f"vlmtool train {recipe} --work-dir {folder}{_set(work_dir, recipe, seed)}"


def _convert(recipe: str, work_dir: Path, seed: int, name: str) -> str:
    last = load_recipe(recipe).schedule.max_steps
    checkpoint = shlex.quote(str(work_dir / recipe.removeprefix("demo_") / f"iter_{last}.pth"))
    target = shlex.quote(str(work_dir / name))
    return f"vlmtool convert pth_to_hf {recipe} {checkpoint} {target}{_set(work_dir, recipe, seed)}"


def _set(work_dir: Path, recipe: str, seed: int) -> str:
    """Overrides for another work dir or seed than the recipes'; empty by default."""
    values: dict[str, str] = {}
    if work_dir != DEFAULT_WORK_DIR:
        data = work_dir / "data"
        values = {"data.path": f"{data / recipe.removeprefix('demo_')}.json", "data.image_folder": str(data / "images")}
        if recipe == "demo_finetune":
            values |= {"data.val_path": str(data / "val.json"), "init_from": str(work_dir / "pretrain")}
    if seed:
        values["runtime.seed"] = str(seed)
    return "".join(f" --set {shlex.quote(f'{key}={value}')}" for key, value in values.items())


def run_step(step: Step) -> float:
    """Print and run one command; its output passes through. Returns its seconds.

    Raises:
        VlmtoolError: it failed; its own error has been printed by it.
    """
    console = err()
    console.print(f"\n{step.title}", style="bold")
    console.print(f"$ {step.command}", style="cyan")
    start = time.monotonic()
    done = subprocess.run(real_command(step.command), check=False)
    if done.returncode:
        raise VlmtoolError(f"This step of the demo ended with exit code {done.returncode}:\n{step.command}")
    return time.monotonic() - start


def real_command(command: str) -> list[str]:
    """The same command with this process's own Python, whatever is on the PATH."""
    program, *rest = shlex.split(command)
    return [sys.executable, *rest] if program == "python" else [sys.executable, "-m", "vlmtool", *rest]
