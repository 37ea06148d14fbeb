"""Learning rate over the steps: linear warm-up, then cosine, linear or no decay. Works from one step on."""

import math
from typing import Any

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin

POSITION = "_global_step"  # what mmengine's schedulers call the steps done


def lr_factor(step: int, total_steps: int, warmup_steps: int, decay: str) -> float:
    """Share of the peak learning rate in optimiser step `step`, counted from 0.

    Warm-up rises in equal parts and never stands at 0; decay reaches 0 after the last step.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0 if decay == "constant" else 1 - progress


class WarmupDecayLR(LRSchedulerMixin, _ParamScheduler):
    """`lr_factor` times each group's own peak learning rate, as a scheduler of mmengine's."""

    def __init__(self, optimizer: Any, total_steps: int, warmup_steps: int, decay: str, **kwargs: Any) -> None:
        self.total_steps, self.warmup_steps, self.decay = total_steps, warmup_steps, decay
        super().__init__(optimizer, **kwargs)

    def state_dict(self) -> dict[str, int]:
        """The place in the schedule; its values are the recipe's."""
        return {POSITION: self._global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved place: rates are those that this schedule has there. Other keys are not read.

        After a run's last step mmengine leaves `last_step`, which counts the rates, one behind.
        """
        self._global_step = self.last_step = state_dict[POSITION]
        for group, value in zip(self.optimizer.param_groups, self._get_value(), strict=True):
            group[self.param_name] = value
        self._last_value = [group[self.param_name] for group in self.optimizer.param_groups]

    def _get_value(self) -> list[float]:
        factor = lr_factor(self.last_step, self.total_steps, self.warmup_steps, self.decay)
        return [base * factor for base in self.base_values]
