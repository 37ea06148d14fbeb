"""The weights of another tool against those that a model has: what is taken, what is left and why, what stays fresh."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vlmtool.models.encoders.checkpoint import own_name
from vlmtool.models.imports.names import Left
from vlmtool.models.imports.projectors import ROW_END, FoundProjector, Shape, find_projector
from vlmtool.models.imports.read import Foreign
from vlmtool.models.lora import is_weight_of
from vlmtool.utils.checklist import counted

_PROJECTOR, _ENCODER = "projector.", "vision_encoder.model."
_PEFT = "base_model.model."  # before every name of a part with an adapter
_BLOCK = re.compile(r"\.layers?\.(\d+)\.")  # `layer` in DINOv2
_NAMED = 2  # names that stand for the others of a line


@dataclass(frozen=True)
class ImportReport:
    """What became of every weight, by the tool's names."""

    source: str
    kind: str
    taken: dict[str, list[str]] = field(default_factory=dict)
    """By part."""
    left: dict[str, list[str]] = field(default_factory=dict)
    """By reason."""
    fresh: dict[str, list[str]] = field(default_factory=dict)
    """Trained weights of the model that the source does not have, by part and by vlmtool's names."""

    def lines(self) -> list[str]:
        """A few lines for a person."""
        said = [f"init_from '{self.source}': {self.kind}"]
        said += [f"  {part}: {_told(names)} taken" for part, names in self.taken.items()]
        said += [f"  not taken: {_told(names)}: {reason}" for reason, names in self.left.items()]
        return said + [f"  fresh: {_told(names)} of the {part}" for part, names in self.fresh.items()]

    def plain(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"source": self.source, "kind": self.kind, "taken": self.taken, "left": self.left, "fresh": self.fresh}


@dataclass(frozen=True)
class Fitted:
    """Weights by the model's names, and what became of each; `names` leads from the tool's names to the model's."""

    state: dict[str, Tensor]
    names: dict[str, str]
    left: dict[str, list[str]]
    projector: FoundProjector | None
    """None where the source has none."""


def fit(source: Foreign, own: Collection[str], tied: Collection[str], kept: Mapping[str, str]) -> Fitted:
    """Sort the weights of a source. What has no place is among the state, where loading refuses it.

    Args:
        own: names of the model's weights and buffers.
        tied: further names of weights that have two.
        kept: {part: why its own weights are not taken}, for parts that the recipe does not train whole. Adapters of
            such a part are taken.

    Raises:
        CheckpointError: the source is damaged, or its projector none that vlmtool has.
    """
    shapes = projector_shapes(source.placed())
    projector = find_projector(shapes, str(source.path)) if any(name != ROW_END for name in shapes) else None
    state: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    left: dict[str, list[str]] = {}
    for name, target, value in source.placed():
        if not isinstance(target, Left):
            target = _in_model(target, projector, own, tied, kept)
        if isinstance(target, Left):
            left.setdefault(target.reason, []).append(name)
        else:
            state[target], names[name] = value, target
    return Fitted(state, names, left, projector)


def report_of(source: Foreign, fitted: Fitted, fresh: Collection[str]) -> ImportReport:
    """For a person, and for a file."""
    return ImportReport(
        str(source.path),
        str(source.kind),
        by_part({name: target.partition(".")[0] for name, target in fitted.names.items()}),
        fitted.left,
        by_part({name: name.partition(".")[0] for name in fresh}),
    )


def by_part(parts: Mapping[str, str]) -> dict[str, list[str]]:
    """{name: part} as {part: names}."""
    result: dict[str, list[str]] = {}
    for name, part in parts.items():
        result.setdefault(part, []).append(name)
    return result


def projector_shapes(placed: Iterable[tuple[str, str | Left, Tensor]]) -> dict[str, Shape]:
    """Shapes of a projector's weights, by the tool's names without what stands before all of them.

    Args:
        placed: `Foreign.placed`.
    """
    found = ((target, value) for _, target, value in placed if isinstance(target, str))
    return {
        target.removeprefix(_PROJECTOR): tuple(value.shape) for target, value in found if target.startswith(_PROJECTOR)
    }


def _in_model(
    target: str,
    projector: FoundProjector | None,
    own: Collection[str],
    tied: Collection[str],
    kept: Mapping[str, str],
) -> str | Left:
    """Where a weight goes in this very model."""
    part, _, inner = target.partition(".")
    if part == "projector":
        names = projector.names if projector is not None else {}
        return _PROJECTOR + names.get(inner, inner)
    if part == "vision_encoder":
        target = own_name(target, own, _ENCODER)
        if target not in own:
            target = own_name(target, own, _ENCODER + _PEFT)
    if part in kept and not is_weight_of("lora", target):
        return Left(kept[part])
    if part == "vision_encoder" and any(number > _last_block(own) for number in block_number(target)):
        return Left("of encoder layers above the one that is read")
    return Left("the same weight as another one") if target in tied else target


def _last_block(own: Collection[str]) -> int:
    """Number of the highest block of the encoder that was kept; -1 where none was."""
    return max((number for name in own if name.startswith(_ENCODER) for number in block_number(name)), default=-1)


def block_number(name: str) -> list[int]:
    """Of the encoder's block that a weight belongs to; none for the others."""
    return [int(number) for number in _BLOCK.findall(name)[:1]]


def _told(names: Collection[str]) -> str:
    """`12 weights (a.weight, b.weight, …)`."""
    shown = ", ".join(list(names)[:_NAMED])
    return f"{counted(len(names), 'weight')} ({shown}{', …' if len(names) > _NAMED else ''})"
