"""The optimiser: one group of weights per part, each with its own learning rate."""

from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from vlmtool.models.parts import PARTS
from vlmtool.utils.errors import RecipeError, UsageError
from vlmtool.utils.imports import import_class

FUSED = (Adam, AdamW, SGD)
"""Those that can move all weights in one pass over them, on a CPU and on a GPU."""
KNOWN = {
    "torch.optim": ("SGD", "Adam", "AdamW", "Adafactor"),
    "bitsandbytes.optim": ("AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "Lion", "PagedLion8bit"),
}
"""Names that people write without their module."""


def find_optimizer(name: str) -> type[Optimizer]:
    """The class that a recipe names.

    Raises:
        RecipeError: there is none. UsageError: it is no optimiser, or one that takes each step several times.
    """
    try:
        found: Any = import_class(name, "schedule.optimizer")
    except RecipeError as error:
        what, remedy = str(error).split("\n", 1)
        raise RecipeError(f"{what}{_meant(name)}\n{remedy}") from error
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise UsageError(f"schedule.optimizer: '{name}' is no optimiser.\nName one, such as torch.optim.AdamW.")
    closure = signature(found.step).parameters.get("closure")
    if closure is not None and closure.default is Parameter.empty:
        raise UsageError(
            f"schedule.optimizer: {found.__name__} computes a step's loss several times, which is not supported.\n"
            "Name one that takes a gradient as it is, such as torch.optim.AdamW."
        )
    return found


def _meant(name: str) -> str:
    """A well-known one of nearly this name, in which upper and lower case are easily mistaken."""
    known = {one.lower(): f"{module}.{one}" for module, ones in KNOWN.items() for one in ones}
    nearest = get_close_matches(name.rpartition(".")[2].lower(), known, n=1)
    return f" Did you mean '{known[nearest[0]]}'?" if nearest else ""


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
        """The wrapper over the model's trained weights; `settings_given` names what the recipe says of its groups."""
        settings = dict(self.wrapper.pop("optimizer"))
        optimizer_class = find_optimizer(settings.pop("type"))
        lr = settings["lr"]
        known = signature(optimizer_class).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            settings = {name: value for name, value in settings.items() if name in known}  # SGD has no betas
        if optimizer_class in FUSED:
            settings.setdefault("fused", True)  # the same numbers; on a CPU six times as fast, on a GPU one launch
        try:
            optimizer = optimizer_class(self.groups(model, lr), **settings)
        except TypeError as error:
            raise UsageError(
                f"schedule.optimizer: {optimizer_class.__name__} cannot be made: {error}\n"
                "Name one that takes (params, lr, …) as torch.optim's do."
            ) from error
        wrapper = OPTIM_WRAPPERS.build({**self.wrapper, "optimizer": optimizer})
        wrapper.settings_given = {"name", "initial_lr", *settings}
        return wrapper

    def groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """Parameter groups {name, lr, params}, one for each part that trains anything."""
        found = []
        for part in PARTS:
            params = [p for p in getattr(model, part).parameters() if p.requires_grad]
            if params:
                found.append({"name": part, "lr": self.part_lr.get(part, lr), "params": params})
        return found
