"""What may stand in a recipe. Every key is listed here; anything else is refused with the nearest name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A flat section of a recipe: read-only, no unknown keys, no silent conversion of one type into another."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class Lora(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685)."""

    r: int = Field(gt=0)
    alpha: float = Field(gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = ()
    """Names of the linear layers that get an adapter; empty: all but the output head."""
    dora: bool = False
    """Also learn how long each layer's weight vectors are (DoRA, arXiv 2402.09353)."""
    rslora: bool = False
    """Scale updates by alpha / sqrt(r), not alpha / r, so that a high rank learns as fast (arXiv 2312.03732)."""


class Prefix(Section):
    """Prefix tuning (arXiv 2101.00190): learned keys and values before every prompt, in every layer."""

    num_tokens: int = Field(gt=0)
    """Positions of the context that the prefix takes."""


class TunablePart(Section):
    """What an LLM and an encoder share: where it is, and what of it is trained."""

    path: str
    """A local folder or a hub id."""
    lora: Lora | None = None
    freeze: bool | None = None
    """True: nothing is trained. False: every weight is. Unset: frozen but for its adapter."""
    lr: float | None = Field(None, gt=0)
    """Peak learning rate of this part; `schedule.lr` unless given."""

    @model_validator(mode="after")
    def _one_way_of_tuning(self) -> "TunablePart":
        if self.adapter is not None and self.freeze is not None:
            wish = "frozen" if self.freeze else "fully trained"
            adapter = "LoRA adapter" if self.adapter == "lora" else self.adapter
            raise ValueError(f"is said to be {wish} and to get a {adapter}: drop `freeze` or set `{self.adapter}=None`")
        return self

    @property
    def adapter(self) -> str | None:
        """The key that gives the part an adapter, None where none does."""
        return "lora" if self.lora is not None else None

    @property
    def is_fully_trained(self) -> bool:
        """Every weight of the part is trained."""
        return self.freeze is False

    @property
    def is_frozen(self) -> bool:
        """Nothing of the part is trained."""
        return self.adapter is None and not self.is_fully_trained


class LLM(TunablePart):
    """The language model."""

    template: str | None = None
    """A name of `vlmtool/data/templates`, a path to a .jinja file, or None for the tokenizer's own."""
    quantization: Literal["nf4", "int8"] | None = None
    prefix: Prefix | None = None
    """Takes the place of `lora`."""

    @property
    def adapter(self) -> str | None:
        """The key that gives the part an adapter, None where none does."""
        return "prefix" if self.prefix is not None else super().adapter

    @model_validator(mode="after")
    def _one_adapter(self) -> "LLM":
        if self.prefix is not None and self.lora is not None:
            raise ValueError("is said to get a prefix and a LoRA adapter: set `prefix=None` or `lora=None`")
        if self.quantization == "int8" and self.lora is not None and self.lora.dora:
            raise ValueError("DoRA on int8 weights is not supported: set `quantization='nf4'` or drop `dora`")
        return self

    @model_validator(mode="after")
    def _quantized_weights_stay(self) -> "LLM":
        if self.quantization and self.is_fully_trained:
            raise ValueError(f"{self.quantization} weights cannot be trained: set `quantization=None` or use a LoRA")
        return self


class VisionEncoder(TunablePart):
    """The image encoder."""

    select_layer: int = -2
    """Which hidden states the projector reads, as Hugging Face counts them: -1 the last block, -2 the one before."""
    select_strategy: Literal["auto", "patch", "full"] = "auto"
    """`patch` drops the first token (CLS), `full` keeps all; `auto` drops those that are no patches."""
    image_size: int | None = Field(None, gt=0)
    """Side in pixels of what the encoder sees; unset: its config's. Position embeddings are interpolated."""
    tiles: tuple[tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]], ...] = ()
    """Grids (rows, columns) of tiles to choose from for each picture (AnyRes); empty: the whole picture alone."""
    max_patches: int | None = Field(None, gt=0)
    """With an encoder of native resolution (SigLIP 2 NaFlex): patches that a picture has at most."""


class Projector(Section):
    """From patch features to image embeddings. Further keys are arguments of the class."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    type: str = "vlmtool.models.projectors.mlp.MLPProjector"
    lr: float | None = Field(None, gt=0)
    freeze: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the projector class beyond the two widths."""
        return dict(self.model_extra or {})


class SamplePrompt(Section):
    """A question that the model answers now and then during training."""

    question: str
    image: str | None = None


class Data(Section):
    """What to learn from."""

    path: str
    """JSON or JSON Lines of LLaVA records."""
    image_folder: str = "."
    val_path: str | None = None
    """A held-out file of the same form and image folder, for the validation loss."""
    max_length: int = Field(2048, gt=0)
    """Tokens per sample, image tokens included."""
    image_position: Literal["as_written", "front"] = "as_written"
    """`front` moves the tag to the front of its turn, as LLaVA and XTuner do."""
    pad_to_square: bool = False
    sampler: Literal["random", "length"] = "random"
    """`length` puts samples of like length into a batch."""
    on_bad_sample: Literal["stop", "skip"] = "stop"
    """`skip` leaves samples out that cannot be used and lists them; more than one in a hundred still stops the run."""
    num_workers: int = Field(2, ge=0)
    sample_prompts: tuple[SamplePrompt, ...] = ()


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


class Runtime(Section):
    """How to run."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute type; auto: bfloat16 on a GPU that has it, float32 on a CPU."""
    seed: int = 0
    activation_checkpointing: bool = False
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
    """The stage before: a run folder (its last checkpoint), a checkpoint or a model folder."""
    mmengine: dict[str, Any] = {}
    """Raw arguments of mmengine's Runner, over those that vlmtool derives."""

    @model_validator(mode="after")
    def _something_is_trained(self) -> "Recipe":
        if self.llm.is_frozen and self.vision_encoder.is_frozen and self.projector.freeze:
            raise ValueError("trains nothing: every part is frozen")
        return self

    @model_validator(mode="after")
    def _prefix_is_kept(self) -> "Recipe":
        # transformers drops the keys and values before a prompt where it computes activations twice.
        if self.llm.prefix is not None and self.runtime.activation_checkpointing:
            raise ValueError("has llm.prefix, which needs `runtime.activation_checkpointing=False`")
        return self
