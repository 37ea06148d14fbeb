"""The optimiser: one group of weights per part, each with its own learning rate."""

from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from vlmtool.models.build import import_class
from vlmtool.models.weights import PARTS


class PartwiseOptimizer:
    """Builds mmengine's optimiser wrapper with the parts' learning rates.

    Args:
        optim_wrapper_cfg: {type, optimizer: {type, lr, …}, clip_grad}.
        paramwise_cfg: {part: its peak learning rate}; a part that is not named takes the optimiser's.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, float] | None = None) -> None:
        self.wrapper = dict(optim_wrapper_cfg)
        self.part_lr = paramwise_cfg or {}

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The wrapper over the model's trained weights."""
        settings = dict(self.wrapper.pop("optimizer"))
        optimizer_class = import_class(settings.pop("type"), "schedule.optimizer")
        optimizer = optimizer_class(self.groups(model, settings["lr"]), **settings)
        return OPTIM_WRAPPERS.build({**self.wrapper, "optimizer": optimizer})

    def groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """Parameter groups {name, lr, params}, one for each part that trains anything."""
        module = getattr(model, "module", model)
        found = []
        for part in PARTS:
            params = [p for p in getattr(module, part).parameters() if p.requires_grad]
            if params:
                found.append({"name": part, "lr": self.part_lr.get(part, lr), "params": params})
        return found
