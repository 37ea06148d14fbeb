"""From a recipe to the arguments of mmengine's Runner: one pure function, printed by `config show --expanded`."""

from typing import Any

from vlmtool.recipe.schema import Recipe

PACKAGE = "vlmtool.engine"


def expand(
    recipe: Recipe, work_dir: str = "", total_steps: int | None = None, use_scaler: bool = False
) -> dict[str, Any]:
    """Runner arguments as plain values; model and data loader are objects and join them in `build.py`.

    Args:
        total_steps: optimiser steps of the run; without it, `schedule.max_steps`, or None where only the data tells.
        use_scaler: scale the loss, as float16 needs.
    """
    steps = recipe.schedule.max_steps or total_steps
    arguments: dict[str, Any] = {
        "work_dir": work_dir,
        **_stepping(recipe, steps, use_scaler),
        **_hooks(recipe),
        "randomness": {"seed": recipe.runtime.seed},
        "log_level": "ERROR",
    }
    return merge(arguments, recipe.mmengine)


def _stepping(recipe: Recipe, steps: int | None, use_scaler: bool) -> dict[str, Any]:
    """The loop, the optimiser and the learning rate."""
    schedule = recipe.schedule
    return {
        "train_cfg": {
            "type": f"{PACKAGE}.loop.StepLoop",
            "max_steps": steps,
            "max_loss": schedule.max_loss,
            "max_skipped": schedule.max_skipped,
        },
        "optim_wrapper": {
            "constructor": f"{PACKAGE}.optimizer.PartwiseOptimizer",
            "type": "AmpOptimWrapper" if use_scaler else "OptimWrapper",
            "optimizer": {
                "type": schedule.optimizer,
                "lr": schedule.lr,
                "betas": schedule.betas,
                "weight_decay": schedule.weight_decay,
            },
            "clip_grad": {"max_norm": schedule.clip_grad} if schedule.clip_grad else None,
            "paramwise_cfg": part_learning_rates(recipe),
        },
        "param_scheduler": [
            {
                "type": f"{PACKAGE}.schedule.WarmupDecayLR",
                "by_epoch": False,
                "total_steps": steps,
                "warmup_steps": warmup_steps(schedule.warmup_ratio, steps) if steps else None,
                "decay": schedule.decay,
            }
        ],
    }


def _hooks(recipe: Recipe) -> dict[str, Any]:
    """vlmtool's own hooks, which take the place of mmengine's loggers and checkpoints."""
    schedule = recipe.schedule
    return {
        "default_hooks": {
            "runtime_info": None,
            "timer": None,
            "sampler_seed": None,
            "logger": None,
            "checkpoint": {
                "type": f"{PACKAGE}.hooks.checkpoint.SaveHook",
                "every": schedule.save_every,
                "keep": schedule.keep,
                "epochs": schedule.save_epochs,
                "on_error": recipe.runtime.on_save_error,
            },
        },
        "custom_hooks": [
            {"type": f"{PACKAGE}.hooks.trouble.TroubleHook"},
            {"type": f"{PACKAGE}.hooks.progress.ProgressHook", "every": schedule.log_every},
        ],
    }


def part_learning_rates(recipe: Recipe) -> dict[str, float]:
    """Peak learning rate of each part that is given one of its own."""
    parts = {"llm": recipe.llm.lr, "vision_encoder": recipe.vision_encoder.lr, "projector": recipe.projector.lr}
    return {name: lr for name, lr in parts.items() if lr is not None}


def warmup_steps(ratio: float, total_steps: int) -> int:
    """Warm-up steps; 0 where the run is too short for one."""
    return min(round(ratio * total_steps), total_steps - 1)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with `over` put on it, dictionaries merged key by key and lists of hooks extended."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        elif key == "custom_hooks":
            result[key] = [*result.get(key, []), *value]
        else:
            result[key] = value
    return result
