"""Weights of the composed model: which are saved, and how they are put back, with nothing skipped silently."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import CheckpointError


def saved_names(model: VisionLanguageModel) -> list[str]:
    """Names of what a checkpoint holds: the trained weights, and always the projector's."""
    return [n for n, p in model.named_parameters() if p.requires_grad or n.startswith("projector.")]


def saved_state(model: VisionLanguageModel) -> dict[str, Tensor]:
    """The weights that a checkpoint holds, on the CPU."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().cpu().clone() for name in saved_names(model)}


def of_part(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The weights of one part, with the part's name taken off."""
    return {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}


@dataclass(frozen=True)
class LoadReport:
    """Names that were loaded, and trained names of the model that the source did not have and stay fresh."""

    loaded: list[str]
    fresh: list[str]


def load_weights(model: nn.Module, state: Mapping[str, Tensor], where: str, expected: Iterable[str] = ()) -> LoadReport:
    """Put `state` into the model.

    Args:
        where: what is loaded, for the error.
        expected: names of the model that would be expected in `state`; those absent are reported as fresh.

    Raises:
        CheckpointError: `state` has a weight that the model has not, or one of another shape.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    strange = [name for name in state if name not in own]
    if strange:
        raise CheckpointError(
            f"{where}: has {counted(len(strange), 'weight')} for which the model has no place, first '{strange[0]}'.\n"
            "Give the recipe the adapters (lora, freeze) and projector it was trained with."
        )
    for name, value in state.items():
        if own[name].shape != value.shape:
            raise CheckpointError(
                f"{where}: '{name}' has shape {tuple(value.shape)}, the model's is {tuple(own[name].shape)}.\n"
                "It was trained on another part, or with another rank or projector."
            )
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    return LoadReport(sorted(state), [name for name in expected if name not in state])
