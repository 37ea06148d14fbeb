"""A recipe at a glance: its parts, what is trained, and the machine that it is meant for."""

import re
from dataclasses import dataclass
from typing import Any

from vlmtool.recipe.catalog import RecipeEntry
from vlmtool.recipe.memory import estimated_gb
from vlmtool.recipe.parts import TunablePart
from vlmtool.recipe.schema import Recipe

HEADINGS = ("LLM", "encoder", "projector", "trained", "GPUs×batch", "GB")
# What most checkpoints of a kind have in their names.
_COMMON = re.compile(r"(?i)^Meta-|-vit(?=-)|-large-patch14|-patch\d+|-(instruct|chat|hf)\b|-v\d[\d.]*$")

_SIZE = re.compile(r"-(\d{3}|small|base|large|giant)$")  # of an encoder, for which two side by side leave no room


@dataclass(frozen=True)
class Overview:
    """What `config list` shows of a recipe."""

    name: str
    summary: str
    llm: str
    vision_encoder: str
    beside: str | None
    """A second encoder side by side with the first."""
    projector: str
    trained: dict[str, str]
    """By part: `all`, `lora` or another adapter; a part that is missing is frozen."""
    quantization: str | None
    gpus: int | None
    batch_size: int
    accumulation: int
    memory_gb: float | None
    """Of each GPU, as published."""
    estimated_gb: float | None
    """Of weights, gradients and optimiser in each process, without DeepSpeed."""

    @property
    def step_size(self) -> int | None:
        """Samples in an optimiser step on the machine that it is meant for."""
        return None if self.gpus is None else max(self.gpus, 1) * self.batch_size * self.accumulation

    def values(self) -> dict[str, Any]:
        """For a program."""
        return {**vars(self), "step_size": self.step_size}

    def cells(self) -> tuple[str, ...]:
        """For a table with `HEADINGS`."""
        llm, encoder = _short(self.llm), _short(self.vision_encoder)
        if self.beside is not None:
            encoder = "+".join(_SIZE.sub("", _short(path)) for path in (self.vision_encoder, self.beside))
        projector = self.projector.rpartition(".")[2].removesuffix("Projector")
        llm += f" {self.quantization}" if self.quantization else ""
        return llm, encoder, projector, self._trained(), self._batch(), self._memory()

    def _trained(self) -> str:
        if self.trained == {"llm": "lora", "vision_encoder": "lora", "projector": "all"}:
            return "projector, LoRA of both"
        words = {"all": "", "lora": " LoRA"}
        names = {"projector": "projector", "llm": "LLM", "vision_encoder": "ViT"}
        said = [name + words.get(how, f" {how}") for part, name in names.items() if (how := self.trained.get(part))]
        return ", ".join(said)

    def _batch(self) -> str:
        machine = "?" if self.gpus is None else str(self.gpus) if self.gpus else "CPU"
        counts = [machine, str(self.batch_size)] + ([str(self.accumulation)] if self.accumulation > 1 else [])
        return "×".join(counts)

    def _memory(self) -> str:
        if self.memory_gb is not None:
            return f"{self.memory_gb:g}"
        if self.estimated_gb is None:
            return "?"
        return f"~{self.estimated_gb:.0f}" if self.estimated_gb >= 1 else "<1"


def overview(entry: RecipeEntry, recipe: Recipe) -> Overview:
    """What `config list` shows of a recipe."""
    parts: dict[str, TunablePart] = {"llm": recipe.llm, "vision_encoder": recipe.vision_encoder}
    trained = {} if recipe.projector.freeze else {"projector": "all"}
    for name, part in parts.items():
        if not part.is_frozen:
            trained[name] = part.adapter or "all"
    planned = recipe.planned
    return Overview(
        name=entry.name,
        summary=entry.summary,
        llm=recipe.llm.path,
        vision_encoder=recipe.vision_encoder.path,
        beside=recipe.paths.get("vision_encoder.beside"),
        projector=recipe.projector.type,
        trained=trained,
        quantization=recipe.llm.quantization,
        gpus=planned.gpus if planned else None,
        batch_size=recipe.schedule.batch_size,
        accumulation=recipe.schedule.accumulation,
        memory_gb=planned.memory_gb if planned else None,
        estimated_gb=estimated_gb(recipe),
    )


def table(rows: list[Overview]) -> list[str]:
    """Lines of text: for each recipe its name, and below it the columns of `HEADINGS`."""
    cells = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = [" " + "  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    named = [text for row, line in zip(rows, lines[1:], strict=True) for text in (row.name, line)]
    return [lines[0], *named]


def _short(path: str) -> str:
    """`clip-336` for `openai/clip-vit-large-patch14-336`."""
    return _COMMON.sub("", path.rpartition("/")[2])
