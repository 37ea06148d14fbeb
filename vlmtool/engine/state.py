"""What resuming needs beside the weights, in `iter_N.state/`: optimiser, schedule, random states, place in the data."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlmtool.data.sampler import Share, StepPlan
from vlmtool.engine.schedule import WarmupDecayLR
from vlmtool.models.checkpoint import safe_load, write_tensors
from vlmtool.models.fingerprint import SHORT
from vlmtool.models.lineage import Guard
from vlmtool.recipe.schema import Schedule
from vlmtool.utils.distributed import is_main, rank
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import read_json, write_text
from vlmtool.utils.terminal import err

SAVE_ID = "save_id"  # the same in a checkpoint and in its state
PROGRESS_FILE = "progress.json"
# Of `plan_values`: with these changed the run can go on, as the same samples by number make a step. With another number
# of samples or another step size some would be drawn twice and others never.
FORCEABLE = {"data", "lengths"}
PLAN_NAMES = {  # what a recipe calls it
    "data": "data file",
    "num_samples": "samples",
    "step_size": "samples per step (schedule.batch_size × accumulation × processes)",
    "seed": "runtime.seed",
    "by_length": "data.sampler by length",
    "lengths": "lengths of the samples",
}


def state_folder(checkpoint: Path) -> Path:
    """`iter_N.state` beside `iter_N.pth`."""
    return checkpoint.with_suffix(".state")


def superseded(folder: Path) -> Path:
    """Where a state folder stands while a new one takes its name."""
    return folder.with_name(f".{folder.name}.old")


def write_rank_state(folder: Path, runner: Any) -> None:
    """This rank's random state, flushed to disk."""
    write_tensors(folder / f"rng_rank{rank()}.pt", random_state(runner.device))


def write_common_state(folder: Path, runner: Any, optimizer: Mapping[str, Any], save_id: str) -> None:
    """What all ranks share, flushed to disk: written by one of them.

    Args:
        optimizer: `Strategy.optimizer_state`.
    """
    write_tensors(folder / "optimizer.pt", optimizer)
    progress = {
        SAVE_ID: save_id,
        "plan": plan_values(runner.train_dataloader.batch_sampler.plan, runner.meta["data"]["sha256"]),
        "schedules": schedule_states(runner),
        "loop": runner.train_loop.state(),
    }
    # Read by us alone, and exactly: a schedule of mmengine's own may hold an infinite number, which strict JSON lacks.
    write_text(folder / PROGRESS_FILE, json.dumps(progress, indent=2) + "\n")


def load_state(checkpoint: Path, meta: dict[str, Any], runner: Any, guard: Guard) -> None:
    """Put the state back. What the recipe says of the schedule holds from here on, also where it was changed.

    Raises:
        CheckpointError: as `check_state` does, or the optimiser's state does not fit.
    """
    plan = runner.train_dataloader.batch_sampler.plan
    now = plan_values(plan, runner.meta["data"]["sha256"])
    folder, progress = check_state(checkpoint, meta, runner.meta["recipe"], now, guard)
    try:
        load_optimizer(runner, safe_load(folder / "optimizer.pt"), folder, progress["schedules"])
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'optimizer.pt'}: does not fit this run: {error}\n"
            "Resume with the recipe it was trained with, or start from its weights (init_from)."
        ) from error
    runner.train_loop.load_state(progress.get("loop", {}))
    own = folder / f"rng_rank{rank()}.pt"
    if own.is_file():
        set_random_state(safe_load(own), runner.device)
    elif is_main():
        err().print("This rank has no saved random state (another number of processes): dropout starts anew.")


def check_state(
    checkpoint: Path, meta: dict[str, Any], recipe: Mapping[str, Any], now: dict[str, Any], guard: Guard
) -> tuple[Path, dict[str, Any]]:
    """The folder and the progress that were saved with a checkpoint, if this run can go on from them.

    Args:
        meta: of the checkpoint; its save id finds the state that was written with it.
        recipe: of the run, as plain values.
        now: `plan_values` of the run, as many of them as are known.
        guard: asked where the run now learns from other samples.

    Raises:
        CheckpointError: the state is missing or damaged, or the run now draws other batches or has another optimiser.
    """
    _check_optimizer(checkpoint, meta["recipe"], recipe)
    folder, progress = _matching_state(checkpoint, meta.get(SAVE_ID))
    _check_plan(checkpoint, {"data": meta["data"].get("sha256"), **progress["plan"]}, now, guard)
    return folder, progress


def _check_optimizer(checkpoint: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """The optimiser of a recipe is the one whose moments were saved."""
    unset = Schedule.model_fields["optimizer"].default
    saved, asked = (recipe.get("schedule", {}).get("optimizer", unset) for recipe in (then, now))
    if saved != asked:
        raise CheckpointError(
            f"{checkpoint}: the run was trained with {saved}, and schedule.optimizer is {asked} now.\n"
            "Resume with the optimiser of then, or start from its weights (init_from)."
        )


def _check_plan(checkpoint: Path, then: dict[str, Any], now: dict[str, Any], guard: Guard) -> None:
    """The run draws the batches that it drew before. What an earlier version did not record is not compared."""
    changed = [key for key in now if then.get(key) is not None and then[key] != now[key]]
    told = ", ".join(f"{PLAN_NAMES.get(key, key)} {_short(then[key])} → {_short(now[key])}" for key in changed)
    if not set(changed) <= FORCEABLE:
        raise CheckpointError(
            f"{checkpoint}: the run would draw other batches than before: {told}.\n"
            "Resume with the same data, seed and samples per step, or start from its weights (init_from)."
        )
    if changed:
        guard.refuse(
            f"{checkpoint} was trained on other samples: {told}.",
            "Resume with the data and lengths as they were, or start from its weights (init_from).",
        )


def _short(value: Any) -> str:
    return value[:SHORT] if isinstance(value, str) else str(value)


def load_optimizer(runner: Any, saved: dict[str, Any], folder: Path, schedules: list[dict[str, Any]]) -> None:
    """Moments and loss scale as they were saved; rates, betas and weight decay as this run's recipe gives them.

    A schedule of mmengine's own, which a recipe may name, computes each value from the one before: of those the value
    is what was saved. So is what an optimiser counts in its groups.
    """
    wrapper = runner.optim_wrapper
    chained = {s.param_name for s in runner.param_schedulers if not isinstance(s, WarmupDecayLR)}
    given = wrapper.settings_given - chained - {f"initial_{name}" for name in chained}
    settings = [{key: group[key] for key in given & group.keys()} for group in wrapper.param_groups]
    runner.strategy.load_optimizer_state(saved, folder)
    for group, own in zip(wrapper.param_groups, settings, strict=True):
        group.update(own)
    for scheduler, values in zip(runner.param_schedulers, schedules, strict=True):
        scheduler.load_state_dict(values)


def _matching_state(checkpoint: Path, save_id: str | None) -> tuple[Path, dict[str, Any]]:
    """The state folder that was written with this checkpoint, and its progress.

    A kill while a name was written over can leave the older state aside, under its name for that time.
    """
    reasons = []
    for folder in (state_folder(checkpoint), superseded(state_folder(checkpoint))):
        try:
            progress = read_json(folder / PROGRESS_FILE)
            if not isinstance(progress, dict):
                raise ValueError("holds no JSON object")
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


def plan_values(plan: StepPlan, data_sha256: str) -> dict[str, Any]:
    """What decides which samples a step draws, and what they are."""
    return {
        "data": data_sha256,
        "num_samples": plan.num_samples if plan.shares == (Share(plan.num_samples),) else _told(plan.shares),
        "step_size": plan.step_size,
        "seed": plan.seed,
        "by_length": plan.by_length,
        "lengths": hashlib.sha256(",".join(map(str, plan.lengths)).encode()).hexdigest() if plan.by_length else None,
    }


def _told(shares: Sequence[Share]) -> list[str]:
    """The samples of a mixture, set by set, with their weights."""
    return [f"{share.num_samples} × {share.weight}" for share in shares]


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
