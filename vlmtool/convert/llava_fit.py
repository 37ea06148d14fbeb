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

from vlmtool.convert.export import check_mlp, check_one_encoder, not_held
from vlmtool.convert.layouts.huggingface import DEPTH
from vlmtool.convert.source import Source
from vlmtool.convert.trained_views import trained_views
from vlmtool.data.views import OneView, TiledViews
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.llm import read_llm_config

FORMAT = "huggingface"


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
    check_one_encoder(FORMAT, recipe)
    check_mlp(FORMAT, projector, DEPTH)
    encoder, views = trained_views(source)
    if not isinstance(views, OneView | TiledViews):
        raise not_held(FORMAT, "an encoder of native resolution")
    if encoder.num_dropped > 1:
        raise not_held(FORMAT, f"an encoder of which {encoder.num_dropped} tokens are dropped (CLS and registers)")
    own_size, tiles = encoder.model.config.image_size, bool(encoder.reading.tiles)
    if encoder.image_size != own_size and (tiles or not encoder.model.config.model_type.startswith("dinov2")):
        raise not_held(
            FORMAT, f"an encoder of {own_size} px at another size (vision_encoder.image_size = {encoder.image_size})"
        )
    if tiles and not projector.get("row_end"):
        raise not_held(FORMAT, "tiles without a token after each row")
    fit = LlavaFit(encoder, views, recipe.data.pad_to_square)
    _check_classes(source, fit)
    return fit


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
        raise not_held(FORMAT, f"a language model of class {type(llm).__name__.removesuffix('Config')}") from error
    if type(model.model.vision_tower) is not type(fit.encoder.model):
        raise not_held(FORMAT, f"an encoder of class {type(fit.encoder.model).__name__}")
    if not hasattr(model.model.language_model, "embed_tokens"):
        raise not_held(FORMAT, f"a language model of class {type(llm).__name__.removesuffix('Config')}")


def _nameless(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy that does not tell the folder it was read from."""
    copied = deepcopy(config)
    copied.name_or_path = ""
    return copied
