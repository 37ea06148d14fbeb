"""What may stand in a recipe. Every key is listed here; anything else is refused with the nearest name."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from vlmtool.recipe.parts import LLM, Projector, VisionEncoder
from vlmtool.recipe.section import Section
from vlmtool.utils.imports import is_own


class SamplePrompt(Section):
    """A question that the model answers now and then during training."""

    question: str
    image: str | None = None


class DataSet(Section):
    """One of the sets of a mixture."""

    path: str
    """JSON or JSON Lines of LLaVA records."""
    image_folder: str | None = None
    """`data.image_folder` unless given."""
    weight: float = Field(default=1.0, gt=0)
    """An epoch draws so many times the set's size: 0.5 a random half, another in each epoch, 3.0 each sample thrice."""
    template: str | None = None
    """As `llm.template`, which it is unless given."""
    image_position: Literal["as_written", "front"] | None = None
    """`data.image_position` unless given."""


class Data(Section):
    """What to learn from."""

    path: str | None = None
    """JSON or JSON Lines of LLaVA records."""
    sets: tuple[DataSet, ...] = ()
    """Takes the place of `path`: several files, learned from together."""
    image_folder: str = "."
    val_path: str | None = None
    """A held-out file of the same form and image folder, for the validation loss."""
    max_length: int = Field(2048, gt=0)
    """Tokens per sample, image tokens included."""
    image_position: Literal["as_written", "front"] = "as_written"
    """`front` moves the tag to the front of its turn, as LLaVA and XTuner do."""
    pad_to_square: bool = False
    reduce_jpeg: bool = False
    """Decode JPEGs of more than twice the side that the encoder sees at a half, quarter or eighth: faster; pixels
    differ a little from those that a chat sees."""
    sampler: Literal["random", "length"] = "random"
    """`length` puts samples of like length into a batch."""
    on_bad_sample: Literal["stop", "skip"] = "stop"
    """`skip` leaves samples out that cannot be used and lists them; more than one in a hundred still stops the run."""
    num_workers: int = Field(2, ge=0)
    sample_prompts: tuple[SamplePrompt, ...] = ()
    tables: str = "~/.cache/vlmtool/tables"
    """Where a file of more than 64 MiB has its records and lengths, for all runs."""

    @model_validator(mode="after")
    def _path_or_sets(self) -> "Data":
        if self.path is not None and self.sets:
            raise ValueError("gives both `path` and `sets`: leave one out (`sets=()`, `path=None`)")
        if self.path is None and not self.sets:
            raise ValueError("gives neither `path` nor `sets`: name the file to learn from")
        return self

    @model_validator(mode="after")
    def _each_file_once(self) -> "Data":
        files = [Path(given.path) for given in self.sets]
        if twice := next((file for file in files if files.count(file) > 1), None):
            raise ValueError(f"names '{twice}' in two `sets`: give it once, with their weights added up")
        return self


class Schedule(Section):
    """How long and how fast to learn."""

    lr: float = Field(gt=0)
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, gt=0)
    """Optimiser steps; takes the place of `epochs`."""
    batch_size: int = Field(gt=0)
    """Samples per device and micro-batch."""
    accumulation: int = Field(1, gt=0)
    """Micro-batches per optimiser step."""
    pack_to: int | None = Field(None, gt=0)
    """Tokens per device and pass. The samples of a step, batch_size × accumulation on each device, are then laid one
    behind the other into as few rows of at most so many tokens as they fit, without padding; no number changes."""
    optimizer: str = "torch.optim.AdamW"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    clip_grad: float | None = Field(1.0, gt=0)
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    log_every: int = Field(10, gt=0)
    save_every: int | None = Field(None, gt=0)
    """Optimiser steps between checkpoints; the last step is always saved."""
    save_epochs: bool = False
    """Also save at the end of each epoch, as epoch_N.pth."""
    keep: int = Field(2, gt=0)
    """How many `iter_N.pth` are kept."""
    neftune_alpha: float | None = Field(None, gt=0)
    """Strength of uniform noise on the text embeddings in training (NEFTune, arXiv 2310.05914: 5 to 15)."""
    max_loss: float | None = Field(None, gt=0)
    """A step with a higher loss is skipped; unset: twice the loss of a blind guess, 2 ln(vocabulary)."""
    max_skipped: int = Field(10, gt=0)
    """So many skipped steps in a row end the run."""
    val_every: int | None = Field(None, gt=0)
    sample_every: int | None = Field(None, gt=0)
    eval: tuple[Annotated[str, Field(pattern=r"^[a-z_]+:.+$")], ...] = ()
    """Benchmarks to score during training, as NAME:PATH; the first decides which weights are kept as best.pth."""
    eval_every: int | None = Field(None, gt=0)
    """Optimiser steps between scores; the last step is always scored."""
    eval_batch_size: int = Field(16, gt=0)


def _recomputed(chosen: Any) -> Any:
    """`activation_checkpointing=True` and `=False` as parts."""
    if isinstance(chosen, bool):
        return ("llm",) * chosen
    if not isinstance(chosen, tuple):
        raise ValueError(f"= {chosen!r}: True, False or a list of parts is needed: ('llm', 'vision_encoder')")
    return chosen


def _shortest(parts: tuple[str, ...]) -> bool | tuple[str, ...]:
    """The other way round, as recipes write it."""
    return bool(parts) if parts in ((), ("llm",)) else parts


class Runtime(Section):
    """How to run."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute type; auto: bfloat16 on a GPU that has it, float32 on a CPU."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    strategy: str = "ddp"
    """How several processes share the work: ddp, fsdp2, deepspeed_zero1, _zero2, _zero2_offload, _zero3, _zero3_offload
    or a JSON file of DeepSpeed's settings."""
    activation_checkpointing: Annotated[
        tuple[Literal["llm", "vision_encoder"], ...], BeforeValidator(_recomputed), PlainSerializer(_shortest)
    ] = ()
    """Parts whose activations are computed again in the backward pass instead of kept; True: the language model's."""
    liger: bool = False
    """Norms and gated MLPs of the language model by Liger's kernels: a GPU, and `pip install vlmtool[liger]`."""
    compile: bool = False
    """Compile the blocks of the language model (torch.compile): the first steps take minutes, all others less."""
    on_save_error: Literal["continue", "stop"] = "continue"
    """What follows when a checkpoint cannot be written; the last one of a run always has to be."""
    hang_timeout: float = Field(default=1800.0, gt=0)
    """Seconds without a sign of life from any of several processes after which the run ends."""
    trust_remote_code: bool = False


class Planned(Section):
    """The machine that a recipe is meant for; nothing is derived from it."""

    gpus: int = Field(ge=0)
    """Processes, each with a GPU of its own; 0: one process on the CPU."""
    memory_gb: float | None = Field(None, gt=0)
    """Memory of each GPU, in 1e9 bytes, where it is published; `config list` shows an estimate otherwise."""


class Recipe(Section):
    """A whole training: the parts, what to learn from, how long, how to run."""

    llm: LLM
    vision_encoder: VisionEncoder
    projector: Projector
    data: Data
    schedule: Schedule
    runtime: Runtime = Runtime()
    planned: Planned | None = None
    init_from: str | None = None
    """The stage before: a run folder (its last checkpoint), a checkpoint or a model folder; or another tool's."""
    mmengine: dict[str, Any] = {}
    """Raw arguments of mmengine's Runner, over those that vlmtool derives."""

    @property
    def paths(self) -> dict[str, str]:
        """Folder or hub id of every part that is not made afresh, by the key of its section."""
        beside = self.vision_encoder.beside
        found = {"llm": self.llm.path, "vision_encoder": self.vision_encoder.path}
        return {**found, "vision_encoder.beside": beside.path} if beside is not None else found

    @property
    def training_sets(self) -> tuple[DataSet, ...]:
        """The sets to learn from, one where there is a `data.path`; nothing is left to a default."""
        data = self.data
        return tuple(map(self._filled_in, data.sets if data.path is None else [DataSet(path=data.path)]))

    @property
    def held_out_set(self) -> DataSet | None:
        """The set of `data.val_path`, likewise."""
        path = self.data.val_path
        return None if path is None else self._filled_in(DataSet(path=path))

    @property
    def own_classes(self) -> tuple[str, ...]:
        """Classes of parts that are not vlmtool's: what opens a model folder imports them only where it is told to."""
        encoder = self.vision_encoder
        named = (self.projector.type, encoder.type, encoder.beside.type if encoder.beside is not None else None)
        return tuple(name for name in named if name is not None and not is_own(name))

    def _filled_in(self, given: DataSet) -> DataSet:
        defaults = {
            "image_folder": self.data.image_folder,
            "image_position": self.data.image_position,
            "template": self.llm.template,
        }
        return given.model_copy(update={key: value for key, value in defaults.items() if getattr(given, key) is None})

    @model_validator(mode="after")
    def _something_is_trained(self) -> "Recipe":
        if self.llm.is_frozen and self.vision_encoder.is_frozen and self.projector.freeze:
            raise ValueError("trains nothing: every part is frozen")
        return self

    @model_validator(mode="after")
    def _packing_fits(self) -> "Recipe":
        pack_to, longest = self.schedule.pack_to, self.data.max_length
        if pack_to is not None and self.llm.prefix is not None:
            raise ValueError("has llm.prefix, which stands before a row once: leave `schedule.pack_to` out")
        if pack_to is not None and pack_to < longest:
            raise ValueError(f"has schedule.pack_to={pack_to} below data.max_length={longest}: one sample must fit")
        return self

    @model_validator(mode="after")
    def _prefix_is_kept(self) -> "Recipe":
        # transformers drops the keys and values before a prompt where it computes activations twice.
        if self.llm.prefix is not None and "llm" in self.runtime.activation_checkpointing:
            raise ValueError("has llm.prefix, which needs `runtime.activation_checkpointing=False`")
        return self
