"""What a recipe may say of the parts of a model."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from vlmtool.recipe.section import Section


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
            raise ValueError(f"is said to be {wish} and to get a {adapter}: set `freeze=None` or `{self.adapter}=None`")
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


class BesideEncoder(Section):
    """A second image encoder, which sees the pictures as the first does; each patch has the features of both."""

    path: str
    """A local folder or a hub id."""
    type: str | None = None
    select_layer: int = -2
    select_strategy: Literal["auto", "patch", "full"] = "auto"


class FeatureCache(Section):
    """Features of a frozen encoder on disk: a picture that was seen before is neither decoded nor encoded again."""

    dtype: Literal["float32", "bfloat16", "int8"] = "bfloat16"
    """How they are kept, and rounded also when they are new: 4, 2 or 1 byte a number."""
    folder: str = "~/.cache/vlmtool/features"
    """Where each encoder, way of preparing pictures and `dtype` has a folder of its own, for all runs."""


class VisionEncoder(TunablePart):
    """The image encoder."""

    type: str | None = None
    """A class of your own that reads the encoder; unset: vlmtool's, which reads CLIP, SigLIP, SigLIP 2 and DINOv2."""
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
    beside: BesideEncoder | None = None
    """Another encoder side by side with this one (Prismatic VLMs, arXiv 2402.07865)."""
    cache: FeatureCache | None = None
    """Keep the features of a frozen encoder for the next epoch and the next run."""

    @model_validator(mode="after")
    def _only_what_stays_is_kept(self) -> "VisionEncoder":
        if self.cache is not None and not self.is_frozen:
            raise ValueError("is trained, so that its features change with every step: set `cache=None` or freeze it")
        return self

    @model_validator(mode="after")
    def _pair_stays_as_it_is(self) -> "VisionEncoder":
        if self.beside is not None and not self.is_frozen:
            remedy = "lora=None" if self.adapter is not None else "freeze=True"
            raise ValueError(
                "has another encoder beside it, and a model folder holds an adapter or weights of one encoder alone: "
                f"set `vision_encoder.{remedy}` or `vision_encoder.beside=None`"
            )
        return self


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
