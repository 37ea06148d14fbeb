"""What resuming needs beside the weights, in `iter_N.state/`: optimiser, schedule, random states, place in the data."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlmtool.models.checkpoint import safe_load, write_tensors
from vlmtool.utils.distributed import is_main, rank
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import write_json
from vlmtool.utils.terminal import err

SAVE_ID = "save_id"  # the same in a checkpoint and in its state
PROGRESS_FILE = "progress.json"


def state_folder(checkpoint: Path) -> Path:
    """`iter_N.state` beside `iter_N.pth`."""
    return checkpoint.with_suffix(".state")


def superseded(folder: Path) -> Path:
    """Where a state folder stands while a new one takes its name."""
    return folder.with_name(f".{folder.name}.old")


def write_rank_state(folder: Path, runner: Any) -> None:
    """This rank's random state, flushed to disk."""
    write_tensors(folder / f"rng_rank{rank()}.pt", random_state(runner.device))


def write_common_state(folder: Path, runner: Any, save_id: str) -> None:
    """What all ranks share, flushed to disk: written by one of them."""
    write_tensors(folder / "optimizer.pt", runner.optim_wrapper.state_dict())
    progress = {
        SAVE_ID: save_id,
        "plan": plan_values(runner),
        "schedules": schedule_states(runner),
        "loop": runner.train_loop.state(),
    }
    write_json(folder / PROGRESS_FILE, progress)


def load_state(checkpoint: Path, meta: dict[str, Any], runner: Any) -> None:
    """Put the state back.

    Args:
        meta: of the checkpoint; its save id finds the state that was written with it.

    Raises:
        CheckpointError: the state is missing or damaged, or the run now draws other batches.
    """
    folder, progress = _matching_state(checkpoint, meta.get(SAVE_ID))
    then, now = progress["plan"], plan_values(runner)
    changed = [f"{key} {then.get(key)} → {now[key]}" for key in now if then.get(key) != now[key]]
    if changed:
        raise CheckpointError(
            f"{folder}: the run would draw other batches than before: {', '.join(changed)}.\n"
            "Resume with the same data, seed and samples per step, or start from its weights (init_from)."
        )
    try:
        runner.optim_wrapper.load_state_dict(safe_load(folder / "optimizer.pt"))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'optimizer.pt'}: does not fit this run: {error}\n"
            "Resume with the recipe it was trained with, or start from its weights (init_from)."
        ) from error
    for scheduler, values in zip(runner.param_schedulers, progress["schedules"], strict=True):
        scheduler.load_state_dict(values)
    runner.train_loop.load_state(progress.get("loop", {}))
    own = folder / f"rng_rank{rank()}.pt"
    if own.is_file():
        set_random_state(safe_load(own), runner.device)
    elif is_main():
        err().print("This rank has no saved random state (another number of processes): dropout starts anew.")


def _matching_state(checkpoint: Path, save_id: str | None) -> tuple[Path, dict[str, Any]]:
    """The state folder that was written with this checkpoint, and its progress.

    A kill while a name was written over can leave the older state aside, under its name for that time.
    """
    reasons = []
    for folder in (state_folder(checkpoint), superseded(state_folder(checkpoint))):
        try:
            progress = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reasons.append(f"{folder / PROGRESS_FILE}: {error}")
            continue
        if progress.get(SAVE_ID) == save_id:
            return folder, progress
        reasons.append(f"{folder}: belongs to another save of {checkpoint.name}")
    raise CheckpointError(
        f"{state_folder(checkpoint)}: the state for resuming is missing or damaged: {reasons[0]}\n"
        "Resume from an older checkpoint (--resume-from), or start from its weights (init_from)."
    )


def plan_values(runner: Any) -> dict[str, int | bool]:
    """What decides which samples a step draws."""
    plan = runner.train_dataloader.batch_sampler.plan
    return {
        "num_samples": plan.num_samples,
        "step_size": plan.step_size,
        "seed": plan.seed,
        "by_length": plan.by_length,
    }


def schedule_states(runner: Any) -> list[dict[str, Any]]:
    """Plain values of the learning-rate schedulers."""
    return [scheduler.state_dict() for scheduler in runner.param_schedulers]


def random_state(device: torch.device) -> dict[str, Any]:
    """State of every generator a training draws from, as tensors and plain values."""
    version, python, gauss = random.getstate()
    legacy: dict[str, Any] = np.random.get_state(legacy=False)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(python), gauss],
        "numpy": {**legacy, "state": {**legacy["state"], "key": legacy["state"]["key"].tolist()}},
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put `random_state` back."""
    torch.set_rng_state(state["torch"].clone())
    version, python, gauss = state["python"]
    random.setstate((version, tuple(python), gauss))
    legacy = state["numpy"]
    np.random.set_state({**legacy, "state": {**legacy["state"], "key": np.array(legacy["state"]["key"], np.uint32)}})
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu().clone(), device)
