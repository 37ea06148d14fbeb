"""What the command line says of a model, and the folders that it is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vlmtool.models.encoders.reading import Reading

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Flags:
    """What the command line said of the parts."""

    model: str | None = None
    llava: str | None = None
    adapter: str | None = None
    visual_encoder: str | None = None
    visual_select_layer: int | None = None
    prompt_template: str | None = None


@dataclass(frozen=True)
class PartPlan:
    """Weights of a part, and the adapter to put on them."""

    weights: Path
    adapter: Path | None = None
    over: Path | None = None
    """A whole model of LLaVA's whose weights of this part take the place of those in `weights`."""


@dataclass(frozen=True)
class BesidePlan:
    """The second encoder of a pair, and the folder of its image processor."""

    weights: Path
    image_processor: Path


@dataclass(frozen=True)
class ModelPlan:
    """All that is needed to build a model. A language model alone has no encoder, projector and image processor."""

    llm: PartPlan
    tokenizer: Path
    template: str | None
    """Name of the chat template; None takes the tokenizer's own."""
    stop_words: tuple[str, ...] = ()
    vision_encoder: PartPlan | None = None
    projector: Path | None = None
    image_processor: Path | None = None
    beside: BesidePlan | None = None
    """Another encoder side by side with `vision_encoder`."""
    reading: Reading = Reading()
    pad_to_square: bool = True
    told: str = ""
    """What kind of model another tool wrote, for the person who gave it."""
