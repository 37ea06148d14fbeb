"""DeepSpeed's settings for a run: the shipped ones by name, or a file of the user's."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from vlmtool.utils.errors import CheckpointError, UsageError, did_you_mean, message_lines
from vlmtool.utils.files import read_json_object

PREFIX = "deepspeed_"
_CPU = {"device": "cpu", "pin_memory": True}
_STAGES: dict[str, dict[str, Any]] = {
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero2_offload": {"stage": 2, "offload_optimizer": _CPU},
    "zero3": {"stage": 3},
    "zero3_offload": {"stage": 3, "offload_optimizer": _CPU, "offload_param": _CPU},
}
OTHERS = ("ddp", "fsdp2")
AUTO = "auto"
EXAMPLE = '{"zero_optimization": {"stage": 2}}'
NAMES = tuple(PREFIX + name for name in _STAGES)
# What vlmtool decides itself, from the recipe; a file may leave it out, say "auto", or say the same.
_OURS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
# What a recipe says elsewhere, and what would change the numbers behind its back.
_REFUSED = {
    "optimizer": "schedule.optimizer", "scheduler": "schedule.lr, warmup_ratio and decay",
    "torch_autocast": "runtime.dtype", "amp": "runtime.dtype",
}  # fmt: skip


def zero_settings(name: str) -> dict[str, Any]:
    """DeepSpeed's settings by a shipped name, with or without `deepspeed_`, or of a JSON file.

    Raises:
        UsageError: no such name or file, or it decides what a recipe does.
    """
    short = name.removeprefix(PREFIX)
    if short in _STAGES:
        return {"zero_optimization": deepcopy(_STAGES[short])}
    path = Path(name).expanduser()
    if path.suffix != ".json":
        raise UsageError(
            f"runtime.strategy (--deepspeed) '{name}': not known.{did_you_mean(short, (*OTHERS, *_STAGES))}\n"
            f"It takes {', '.join((*OTHERS, *NAMES))}, or a JSON file of DeepSpeed's settings."
        )
    if not path.is_file():
        raise UsageError(f"runtime.strategy (--deepspeed): there is no file '{name}'.\nCheck the path.")
    settings = _read(path)
    for key, ours in _REFUSED.items():
        if settings.get(key) not in (None, {}):
            raise UsageError(f"{path}: '{key}' is the recipe's to say: {ours}.\nTake the section out of the file.")
    zero = settings.get("zero_optimization")
    if not isinstance(zero, dict):
        others = [key for key in settings if key != "zero_optimization"]
        near = did_you_mean("zero_optimization", others) if zero is None else ""
        raise UsageError(f"{path}: has no section 'zero_optimization'.{near}\nExample: {EXAMPLE}")
    stage = zero.get("stage", 0)
    if stage not in (1, 2, 3):
        nothing = ": nothing would be cut into pieces" if stage == 0 else ""
        raise UsageError(
            f"{path}: zero_optimization.stage = {stage!r}{nothing}.\n"
            "Give stage 1, 2 or 3, or leave --deepspeed out: DDP does what stage 0 does."
        )
    if settings.get("compute_grad_norm") is False:
        raise UsageError(
            f"{path}: 'compute_grad_norm': without a norm no broken step is noticed.\nTake it out of the file."
        )
    return settings


def _read(path: Path) -> dict[str, Any]:
    """A file that the user wrote.

    Raises:
        UsageError: it holds no JSON object.
    """
    try:
        return read_json_object(path)
    except CheckpointError as error:
        raise UsageError(f"{message_lines(error)[0]}\nExample: {EXAMPLE}") from error


def complete(
    settings: Mapping[str, Any], micro_batch: int, accumulation: int, clip_grad: float | None, processes: int
) -> dict[str, Any]:
    """Settings for `deepspeed.initialize`.

    Args:
        micro_batch: samples per process and pass.
        accumulation: passes per step.
        clip_grad: largest norm of the gradients; None does not clip.

    Gradients are accumulated by the loop, which tells the engine of the last micro-batch; so DeepSpeed sees one.

    Raises:
        UsageError: they say otherwise than the recipe.
    """
    said = {
        "train_micro_batch_size_per_gpu": (micro_batch, "schedule.batch_size"),
        "gradient_accumulation_steps": (accumulation, "schedule.accumulation"),
        "train_batch_size": (micro_batch * accumulation * processes, "schedule.batch_size × accumulation × processes"),
        "gradient_clipping": (clip_grad or 0.0, "schedule.clip_grad"),
    }
    for key, (ours, name) in said.items():
        theirs = settings.get(key, AUTO)
        if theirs != AUTO and theirs != ours:
            raise UsageError(
                f"runtime.strategy: its '{key}' is {theirs!r}, but {name} is {ours}.\n"
                f"Say it in the recipe, and '{AUTO}' in the file."
            )
    kept = {key: value for key, value in settings.items() if key not in (*_OURS, "fp16", "bf16")}
    return {
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **kept,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,
        "train_batch_size": micro_batch * processes,
        "gradient_clipping": clip_grad or 0.0,
    }
