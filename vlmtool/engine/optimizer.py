"""The optimiser: one group of weights per part, each with its own learning rate."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Any, NamedTuple

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from vlmtool.models.parts import PARTS
from vlmtool.utils.errors import RecipeError, UsageError
from vlmtool.utils.imports import import_class

TRIED_ON = 256  # rows and columns of a weight
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


def make_optimizer(groups: list[dict[str, Any]], settings: Mapping[str, Any]) -> Optimizer:
    """An optimiser of these groups of weights.

    Args:
        settings: `type`, and what its class takes; what that does not know, as SGD no betas, it is not given.

    Raises:
        RecipeError, UsageError: there is none, or it cannot be made.
    """
    found = find_optimizer(settings["type"])
    try:
        return found(groups, **_taken(found, settings))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"schedule.optimizer: {found.__name__} cannot be made: {error}\n"
            "Name one that takes (params, lr, …) as torch.optim's do."
        ) from error


def _taken(optimizer_class: type[Optimizer], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the class is given of the settings."""
    known = signature(optimizer_class).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    given = {name: value for name, value in settings.items() if name != "type" and (takes_all or name in known)}
    if optimizer_class in FUSED:
        given.setdefault("fused", True)  # the same numbers; on a CPU six times as fast, on a GPU one launch
    return given


class Tried(NamedTuple):
    """What an optimiser does with a small weight on the CPU."""

    name: str
    is_paged: bool
    state_bytes: float | None
    """That it keeps for each number of the weight; None where it works on a GPU alone."""


def try_optimizer(settings: Mapping[str, Any]) -> Tried:
    """Have it step once.

    Raises:
        RecipeError, UsageError: as of `make_optimizer`.
    """
    weight = nn.Parameter(torch.zeros(TRIED_ON, TRIED_ON))
    weight.grad = torch.zeros_like(weight)
    name, paged, kept = find_optimizer(settings["type"]).__name__, False, None
    with warnings.catch_warnings(), suppress(RuntimeError):  # some cannot even be made without a GPU
        warnings.simplefilter("ignore")
        optimizer = make_optimizer([{"params": [weight]}], settings)
        paged = is_paged(optimizer)
        optimizer.step()
        states = [value for value in optimizer.state[weight].values() if isinstance(value, Tensor)]
        kept = sum(value.numel() * value.element_size() for value in states) / weight.numel()
    return Tried(name, paged, kept)


def is_paged(optimizer: Optimizer) -> bool:
    """Of bitsandbytes, and made to move its state between GPU and RAM."""
    return bool(getattr(optimizer, "is_paged", False))


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
        optimizer: Any = make_optimizer(self.groups(model, settings["lr"]), settings)
        if is_paged(optimizer) and not any(weight.is_cuda for weight in model.parameters()):
            optimizer.is_paged = False  # there is nothing to page, which it would say of each kind of state
        wrapper = OPTIM_WRAPPERS.build({**self.wrapper, "optimizer": optimizer})
        wrapper.settings_given = {"name", "initial_lr", *_taken(type(optimizer), settings)}
        return wrapper

    def groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """Parameter groups {name, lr, params}, one for each part that trains anything."""
        found = []
        for part in PARTS:
            params = [p for p in getattr(model, part).parameters() if p.requires_grad]
            if params:
                found.append({"name": part, "lr": self.part_lr.get(part, lr), "params": params})
        return found
