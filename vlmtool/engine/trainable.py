"""What a recipe says is trained, held against what the built model trains."""

from dataclasses import dataclass

from peft import PrefixEncoder
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from vlmtool.models.parts import PARTS
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.errors import RecipeError


@dataclass(frozen=True)
class PartSummary:
    """One part: how it is tuned, its trained and all its parameters, its peak learning rate."""

    name: str
    tuning: str
    trained: int
    total: int
    lr: float


def check_trainable(model: nn.Module, recipe: Recipe) -> list[PartSummary]:
    """Compare each part's trained parameters with what the recipe declares.

    Raises:
        RecipeError: they differ.
    """
    return [_check_part(getattr(model, part), part, recipe) for part in PARTS]


def _check_part(module: nn.Module, name: str, recipe: Recipe) -> PartSummary:
    section = getattr(recipe, name)
    tuning = tuning_of(section)
    adapter = {id(p) for p in adapter_parameters(module)}
    trained = {id(p) for p in module.parameters() if p.requires_grad}
    declared = {"frozen": set(), "full": {id(p) for p in module.parameters()}}.get(tuning, adapter)
    if trained != declared:
        raise RecipeError(
            f"{name} is declared {tuning}, which trains {len(declared)} tensors, but {len(trained)} would be trained."
        )
    count = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return PartSummary(name, tuning, count, num_parameters(module), section.lr or recipe.schedule.lr)


def tuning_of(section: object) -> str:
    """`frozen`, `lora`, `dora`, `prefix` or `full`."""
    adapter = getattr(section, "adapter", None)
    if adapter is not None:
        return "dora" if getattr(getattr(section, "lora", None), "dora", False) else adapter
    frozen = getattr(section, "is_frozen", getattr(section, "freeze", False))
    return "frozen" if frozen else "full"


def adapter_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of peft's adapters below `module`."""
    layers = [m for m in module.modules() if isinstance(m, BaseTunerLayer)]
    found = [getattr(layer, name) for layer in layers for name in layer.adapter_layer_names]
    found += [m for m in module.modules() if isinstance(m, PrefixEncoder)]
    return [p for m in found for p in m.parameters()]


def num_parameters(module: nn.Module) -> int:
    """Parameters as the model's authors count them: a 4-bit tensor holds two to a byte."""
    total = 0
    for parameter in module.parameters():
        state = getattr(parameter, "quant_state", None)
        total += state.shape.numel() if state is not None else parameter.numel()
    return total
