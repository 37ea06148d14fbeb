"""What resuming needs beside the weights, in `iter_N.state/`: optimiser, schedule, random states, place in the data."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlmtool.models.checkpoint import safe_load
from vlmtool.utils.distributed import is_main, rank
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import atomic_path, write_json
from vlmtool.utils.terminal import err


def state_folder(checkpoint: Path) -> Path:
    """`iter_N.state` beside `iter_N.pth`."""
    return checkpoint.with_suffix(".state")


def save_state(folder: Path, runner: Any) -> None:
    """Write the state; rank 0 what all share, each rank its own random state."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / f"rng_rank{rank()}.pt", random_state(runner.device))
    if is_main():
        _save(folder / "optimizer.pt", runner.optim_wrapper.state_dict())
        write_json(folder / "progress.json", {"plan": plan_values(runner), "schedules": schedule_states(runner)})


def load_state(folder: Path, runner: Any) -> None:
    """Put the state back.

    Raises:
        CheckpointError: the state is missing or damaged, or the run now draws other batches.
    """
    progress_file = folder / "progress.json"
    try:
        progress = json.loads(progress_file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{progress_file}: the state for resuming is missing or damaged: {error}\n"
            "Resume from an older checkpoint (--resume-from), or start from its weights (init_from)."
        ) from error
    then, now = progress["plan"], plan_values(runner)
    changed = [f"{key} {then.get(key)} → {now[key]}" for key in now if then.get(key) != now[key]]
    if changed:
        raise CheckpointError(
            f"{folder}: the run would draw other batches than before: {', '.join(changed)}.\n"
            "Resume with the same data, seed and samples per step, or start from its weights (init_from)."
        )
    runner.optim_wrapper.load_state_dict(safe_load(folder / "optimizer.pt"))
    for scheduler, values in zip(runner.param_schedulers, progress["schedules"], strict=True):
        scheduler.load_state_dict(values)
    own = folder / f"rng_rank{rank()}.pt"
    if own.is_file():
        set_random_state(safe_load(own), runner.device)
    elif is_main():
        err().print("This rank has no saved random state (another number of processes): dropout starts anew.")


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


def _save(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary:
        torch.save(value, temporary)
