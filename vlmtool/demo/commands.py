"""The demo's commands: printed as a user would type them, then run as real processes."""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmtool.recipe.load import load_recipe
from vlmtool.utils.errors import VlmtoolError
from vlmtool.utils.terminal import err

DEFAULT_WORK_DIR = Path("work_dirs") / "demo"  # what the demo's recipes name


@dataclass(frozen=True)
class Step:
    """One command with what it is for."""

    title: str
    arguments: tuple[str, ...]

    @property
    def typed(self) -> str:
        """The command as a user types it."""
        return shlex.join(self.arguments)


def demo_steps(work_dir: Path, seed: int) -> list[Step]:
    """Everything from data to score, in order."""
    data, hf, merged = work_dir / "data", work_dir / "hf", work_dir / "merged"
    return [
        Step("Draw the pictures and write the data", ("python", "-m", "vlmtool.demo.data", str(data), "--seed", str(seed))),
        Step("Stage 1: align the projector on captions", _train("demo_pretrain", work_dir, seed)),
        Step("A model folder of the first stage alone, to compare later", _convert("demo_pretrain", work_dir, seed, work_dir / "pretrain_hf")),
        Step("Stage 2: QLoRA on questions", _train("demo_finetune", work_dir, seed)),
        Step("From the checkpoint to a model folder", _convert("demo_finetune", work_dir, seed, hf)),
        Step("Merge the adapters into the weights", ("vlmtool", "convert", "merge", str(hf), str(merged))),
        Step("Ask it about a picture that no training saw",
             ("vlmtool", "chat", str(merged), "--image", str(data / "images" / "test.jpg"), "--question", "Describe the picture.",
              "--question", "What colour is the object?", "--temperature", "0")),
        Step("Score it on a benchmark in MMBench's format",
             ("vlmtool", "mmbench", str(merged), "--data-path", str(data / "mmbench.tsv"), "--work-dir", str(work_dir / "mmbench"),
              "--batch-size", "64")),
        Step("The same with blanked pictures: it must be guessing",
             ("vlmtool", "mmbench", str(merged), "--data-path", str(data / "mmbench_blank.tsv"), "--work-dir",
              str(work_dir / "mmbench_blank"), "--batch-size", "64")),
    ]  # fmt: skip


def _train(recipe: str, work_dir: Path, seed: int) -> tuple[str, ...]:
    stage = recipe.removeprefix("demo_")
    return ("vlmtool", "train", recipe, "--work-dir", str(work_dir / stage), *_set(work_dir, recipe, seed))


def _convert(recipe: str, work_dir: Path, seed: int, save_path: Path) -> tuple[str, ...]:
    last = load_recipe(recipe).schedule.max_steps
    checkpoint = work_dir / recipe.removeprefix("demo_") / f"iter_{last}.pth"
    return ("vlmtool", "convert", "pth_to_hf", recipe, str(checkpoint), str(save_path), *_set(work_dir, recipe, seed))


def _set(work_dir: Path, recipe: str, seed: int) -> tuple[str, ...]:
    """Overrides for another work dir or seed than the recipes'; none by default."""
    values: dict[str, str] = {}
    if work_dir != DEFAULT_WORK_DIR:
        data = work_dir / "data"
        values = {"data.path": f"{data / recipe.removeprefix('demo_')}.json", "data.image_folder": str(data / "images")}
        if recipe == "demo_finetune":
            values |= {"data.val_path": str(data / "val.json"), "init_from": str(work_dir / "pretrain")}
    if seed:
        values["runtime.seed"] = str(seed)
    return tuple(word for key, value in values.items() for word in ("--set", f"{key}={value}"))


def run_step(step: Step) -> float:
    """Print and run one command; its output passes through. Returns its seconds.

    Raises:
        VlmtoolError: it failed; its own error has been printed by it.
    """
    console = err()
    console.print(f"\n[bold]{step.title}[/bold]")
    console.print(f"$ {step.typed}", markup=False, style="cyan")
    start = time.monotonic()
    done = subprocess.run(real_command(step.arguments), check=False)
    if done.returncode:
        raise VlmtoolError(f"This step of the demo ended with exit code {done.returncode}:\n{step.typed}")
    return time.monotonic() - start


def real_command(arguments: Sequence[str]) -> list[str]:
    """The same command with this process's own Python, whatever is on the PATH."""
    program, *rest = arguments
    return [sys.executable, *rest] if program == "python" else [sys.executable, "-m", "vlmtool", *rest]
