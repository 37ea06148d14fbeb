"""Whether transformers' LLaVA classes can hold a model, and what their configs say of it. No weights are read."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)

from vlmtool.convert.layouts.huggingface import DEPTH
from vlmtool.convert.source import Source
from vlmtool.convert.trained_views import trained_views
from vlmtool.data.views import OneView, TiledViews
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.llm import read_llm_config
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.utils.errors import UsageError


@dataclass(frozen=True)
class LlavaFit:
    """A model that the classes hold: how it sees, in their words."""

    encoder: VisionEncoder
    """On the meta device."""
    views: OneView | TiledViews
    pad_to_square: bool

    @property
    def select_strategy(self) -> str:
        """`default` drops the first token, `full` none."""
        return "default" if self.encoder.num_dropped else "full"

    @property
    def num_additional_tokens(self) -> int:
        """Tokens of the encoder that are no patches."""
        return self.encoder.num_prefix_tokens(self.encoder.model.config)

    def config(self, source: Source, llm: PreTrainedConfig, encoder: PreTrainedConfig, image_id: int) -> LlavaConfig:
        """Of the whole model.

        Args:
            llm, encoder: configs of the parts as they are written.
        """
        options = source.meta["projector"]["options"]
        said = dict(
            vision_config=_nameless(encoder),
            text_config=_nameless(llm),
            image_token_index=image_id,
            image_seq_length=self.encoder.num_patches,
            projector_hidden_act=options.get("hidden_act", "gelu"),
            multimodal_projector_bias=options.get("bias", True),
            vision_feature_layer=self.encoder.reading.select_layer,
            vision_feature_select_strategy=self.select_strategy,
            tie_word_embeddings=bool(llm.tie_word_embeddings),
        )
        if isinstance(self.views, OneView):
            return LlavaConfig(**said)
        return LlavaNextConfig(
            **said, image_grid_pinpoints=[list(p) for p in self.views.processor.image_grid_pinpoints]
        )


def find_fit(source: Source) -> LlavaFit:
    """See that the classes can hold the model.

    Raises:
        UsageError: they cannot; names what and the way out.
    """
    recipe, projector = source.recipe, source.meta["projector"]
    section = recipe.vision_encoder
    if section.beside is not None:
        raise not_held("two image encoders side by side")
    if section.type is not None:
        raise not_held(f"an encoder read by a class of its own ({section.type})")
    if recipe.llm.prefix is not None:
        raise not_held("a prefix (llm.prefix), which no weight can hold")
    check_mlp(projector, "huggingface", DEPTH)
    encoder, views = trained_views(source)
    if not isinstance(views, OneView | TiledViews):
        raise not_held("an encoder of native resolution")
    if encoder.num_dropped > 1:
        raise not_held(f"an encoder of which {encoder.num_dropped} tokens are dropped (CLS and registers)")
    own_size, tiles = encoder.model.config.image_size, bool(encoder.reading.tiles)
    if encoder.image_size != own_size and (tiles or not encoder.model.config.model_type.startswith("dinov2")):
        raise not_held(
            f"an encoder of {own_size} px at another size (vision_encoder.image_size = {encoder.image_size})"
        )
    if tiles and not projector.get("row_end"):
        raise not_held("tiles without a token after each row")
    fit = LlavaFit(encoder, views, recipe.data.pad_to_square)
    _check_classes(source, fit)
    return fit


def check_mlp(projector: dict[str, object], save_format: str, depth: int | None = None, act: str | None = None) -> None:
    """The projector is an MLP that the format can hold.

    Args:
        projector: of the checkpoint's meta.
        depth, act: the only ones that it holds; None: any.

    Raises:
        UsageError: it is not.
    """
    name, options = str(projector["type"]), dict(projector["options"])  # type: ignore[call-overload]
    wanted = f"an MLPProjector{f' of depth {depth}' if depth else ''}{f' with {act}' if act else ''}"
    if name != f"{MLPProjector.__module__}.{MLPProjector.__name__}":
        raise not_held(f"a {name.rpartition('.')[2]}, only {wanted}", save_format)
    if depth is not None and options.get("depth", 2) != depth:
        raise not_held(f"a projector of depth {options['depth']}, only {wanted}", save_format)
    if act is not None and options.get("hidden_act", "gelu") != act:
        raise not_held(f"a projector with {options['hidden_act']}, only {wanted}", save_format)


def not_held(what: str, save_format: str = "huggingface") -> UsageError:
    """The error for a model that a format has no place for."""
    return UsageError(f"--save-format {save_format} cannot hold {what}.\nUse --save-format vlmtool: it holds them all.")


def make_llava(config: LlavaConfig | LlavaNextConfig) -> PreTrainedModel:
    """The model of a config, on the meta device."""
    cls = LlavaNextForConditionalGeneration if isinstance(config, LlavaNextConfig) else LlavaForConditionalGeneration
    with torch.device("meta"):
        return cls(config)


def _check_classes(source: Source, fit: LlavaFit) -> None:
    """transformers builds both parts from their configs alone, and the encoder as the class that was trained."""
    llm = read_llm_config(source.llm.folder, source.trust_remote_code)
    try:
        model = make_llava(fit.config(source, llm, fit.encoder.model.config, 0))
    except (ValueError, AttributeError, TypeError) as error:
        raise not_held(f"a language model of class {type(llm).__name__.removesuffix('Config')}") from error
    if type(model.model.vision_tower) is not type(fit.encoder.model):
        raise not_held(f"an encoder of class {type(fit.encoder.model).__name__}")
    if not hasattr(model.model.language_model, "embed_tokens"):
        raise not_held(f"a language model of class {type(llm).__name__.removesuffix('Config')}")


def _nameless(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy that does not tell the folder it was read from."""
    copied = deepcopy(config)
    copied.name_or_path = ""
    return copied
