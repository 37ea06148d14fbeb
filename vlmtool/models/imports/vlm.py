"""A whole vision-language model of another tool, and each of its parts as vlmtool's own classes."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from vlmtool.models.imports.facts import VlmFacts, grids
from vlmtool.models.imports.hf_llava import hf_facts
from vlmtool.models.imports.kind import Kind, foreign_kind
from vlmtool.models.imports.llava import llava_facts, pinpoints
from vlmtool.models.imports.names import UNKNOWN, Left
from vlmtool.models.imports.projectors import ROW_END, find_projector
from vlmtool.models.imports.read import Foreign
from vlmtool.models.legacy.load import load_native
from vlmtool.models.legacy.map import checked_state
from vlmtool.utils.errors import CheckpointError

ENCODER = "vision_encoder.model."


@dataclass(frozen=True)
class ForeignVlm:
    """A folder with a whole model; its weights are read when they are asked for, memory-mapped."""

    source: Foreign
    facts: VlmFacts

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.source.path

    @cached_property
    def has_encoder(self) -> bool:
        """It holds weights of the image encoder."""
        return any(isinstance(target, str) and target.startswith(ENCODER) for _, target, _ in self.source.placed())

    def state(self, prefix: str) -> dict[str, Tensor]:
        """The weights below `prefix` ("llm.", "projector.", `ENCODER`), which is taken off.

        Raises:
            CheckpointError: a file is missing or damaged, or holds a weight of no part that is known.
        """
        found: dict[str, Tensor] = {}
        for name, target, value in self.source.placed():
            if target is UNKNOWN:
                raise CheckpointError(
                    f"{self.folder}: vlmtool has no place for '{name}' of {self.source.kind.named}.\n"
                    "Its config.json or its weights are of another architecture."
                )
            if not isinstance(target, Left) and target.startswith(prefix):
                found[target.removeprefix(prefix)] = value
        return found

    def load_llm(self, **arguments: Any) -> PreTrainedModel:
        """The language model.

        Args:
            arguments: of `from_pretrained`: dtype, quantization_config, device_map.
        """
        cls, config = self.facts.llm, self.facts.llm_config
        state = checked_state(cls, config, self.state("llm."), self.folder)
        return load_native(self.folder, cls, config, state, **arguments)

    def projector(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """{type, vision_hidden_size, llm_hidden_size, options, row_end}, and the weights by the class's names."""
        state = self.state("projector.")
        width, options = self.facts.vision_hidden_size, self.facts.projector_options
        return projector_of(state, str(self.folder), width, options)

    def tiled(self, side: int | None) -> "ForeignVlm":
        """The same with the grids of its tiles, which LLaVA's own layout counts in pixels of its encoder.

        Args:
            side: of what the encoder sees, in pixels.
        """
        sizes = pinpoints(self.folder) if self.source.kind is Kind.LLAVA else None
        if sizes is None:
            return self
        # LLaVA's own lists are of (width, height), those of transformers of (height, width).
        turned = (
            [pair[::-1] if isinstance(pair, list) else pair for pair in sizes] if isinstance(sizes, list) else sizes
        )
        tiles = grids(turned, side, self.folder / "config.json")
        return replace(self, facts=replace(self.facts, reading=replace(self.facts.reading, tiles=tiles)))


def find_vlm(folder: Path) -> ForeignVlm | None:
    """The whole model of another tool in `folder`, by its config.json; None where there is none.

    Raises:
        CheckpointError: the config cannot be used.
    """
    kind = foreign_kind(folder) if folder.is_dir() else None
    if kind is None or not kind.is_vlm:
        return None
    return ForeignVlm(Foreign(folder, kind), hf_facts(folder) if kind is Kind.HF_LLAVA else llava_facts(folder))


def projector_of(
    state: dict[str, Tensor], where: str, vision_hidden_size: int | None, options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of a projector, by the names of vlmtool's class, from those of the tool.

    Args:
        vision_hidden_size: D_vision, where it is said.
        options: arguments of an `MLPProjector` that shapes do not tell.

    Raises:
        CheckpointError: it is none that vlmtool has, or its settings cannot be told.
    """
    found = find_projector({name: tuple(value.shape) for name, value in state.items()}, where, vision_hidden_size)
    vision, llm = found.widths
    if vision is None:
        raise CheckpointError(
            f"{where}: how many patches its projector joins stands in a config.json (mm_hidden_size), which is not "
            "there.\nPut the config.json of the model beside it."
        )
    extra = {name: value for name, value in options.items() if found.type.endswith(".MLPProjector")}
    config = {
        "type": found.type, "vision_hidden_size": vision, "llm_hidden_size": llm, "options": {**found.options, **extra},
    }  # fmt: skip
    ours = {target: state[name] for name, target in found.names.items()}
    if ROW_END in state:
        config["row_end"], ours[ROW_END] = True, state[ROW_END]
    return config, ours
