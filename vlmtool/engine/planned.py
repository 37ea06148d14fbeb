"""The parts of a recipe as their configs describe them: on torch's meta device, with shapes and without memory."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from vlmtool.chat.transform import colours_of, make_transform
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.templates.library import ChatTemplate
from vlmtool.data.tokenizer import image_token_id
from vlmtool.models.build import build_projector
from vlmtool.models.encoders.fused import ImageEncoder, beside_reading, put_beside
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import encoder_class
from vlmtool.models.llm import load_failure, read_llm_config
from vlmtool.models.lora import add_encoder_lora, add_llm_lora
from vlmtool.models.parts import BESIDE
from vlmtool.models.prefix import add_prefix
from vlmtool.models.projectors.base import Projector
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.hub import local_folder


@dataclass
class PlannedParts:
    """What of a recipe's parts could be looked at; the rest is None."""

    folders: dict[str, Path] = field(default_factory=dict)
    """By the keys of `Recipe.paths`."""
    tokenizer: PreTrainedTokenizerBase | None = None
    template: ChatTemplate | None = None
    llm: PreTrainedModel | None = None
    vision_encoder: ImageEncoder | None = None
    projector: Projector | None = None
    transform: ImageTransform | None = None

    @property
    def vocabulary(self) -> int | None:
        """Rows of the LLM's embedding table."""
        return self.llm.get_input_embeddings().num_embeddings if self.llm is not None else None

    def model(self) -> VisionLanguageModel | None:
        """The composed model, where every part of it is known."""
        if self.tokenizer is None or self.llm is None or self.vision_encoder is None or self.projector is None:
            return None
        return VisionLanguageModel(self.vision_encoder, self.projector, self.llm, image_token_id(self.tokenizer))


def planned_llm(recipe: Recipe, folder: Path) -> PreTrainedModel:
    """The language model with its adapters; what will be trained asks for gradients.

    Raises:
        CheckpointError: its config cannot be used. RecipeError: an adapter is for layers that it has not.
    """
    section, trust = recipe.llm, recipe.runtime.trust_remote_code
    try:
        config = read_llm_config(folder, trust)
        with torch.device("meta"):
            llm = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, AttributeError) as error:
        raise CheckpointError(load_failure(folder, error)) from error
    llm.requires_grad_(section.is_fully_trained)
    with torch.device("meta"):
        if section.lora is not None:
            return add_llm_lora(llm, section.lora)
        return add_prefix(llm, section.prefix) if section.prefix is not None else llm


def planned_encoder(recipe: Recipe, folder: Path, beside: Path | None = None) -> ImageEncoder:
    """The image encoder up to the selected layer, with its adapters.

    Args:
        beside: folder of the second encoder of a pair.

    Raises:
        CheckpointError: its config cannot be used. UsageError: no encoder that vlmtool knows, or no such layer.
    """
    section = recipe.vision_encoder
    reading = Reading.of(section)
    encoder = encoder_class(reading.type)(_planned_weights(folder, reading), reading)
    encoder.requires_grad_(section.is_fully_trained)
    if section.lora is not None:
        with torch.device("meta"):
            add_encoder_lora(encoder, section.lora)
    if beside is None:
        return encoder
    second = _planned_weights(beside, beside_reading(encoder))
    return put_beside(encoder, second, colours_of(folder, beside)).to("meta").requires_grad_(False)


def _planned_weights(folder: Path, reading: Reading) -> PreTrainedModel:
    """A whole image encoder."""
    cls = encoder_class(reading.type)
    try:
        return cls.empty_model(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: its config cannot be read: {str(error).splitlines()[0]}") from error


def planned_projector(recipe: Recipe, vision_hidden_size: int, llm_hidden_size: int) -> Projector:
    """The projector.

    Raises:
        RecipeError: no such class, or it does not take these options.
    """
    section = recipe.projector
    with torch.device("meta"):
        return build_projector(
            section.type, vision_hidden_size, llm_hidden_size, section.options, section.freeze, device="meta",
            row_end=bool(recipe.vision_encoder.tiles),
        )  # fmt: skip


def planned_transform(recipe: Recipe, encoder_folder: Path) -> ImageTransform:
    """How pictures are shown, and how many tokens they take; the LLM, whose config is not read, has no say in it.

    Raises:
        CheckpointError, UsageError, RecipeError: as above.
    """
    second = recipe.paths.get(BESIDE)
    beside = local_folder(second, f"{BESIDE}.path") if second is not None else None
    encoder = planned_encoder(recipe, encoder_folder, beside)
    projector = planned_projector(recipe, encoder.hidden_size, encoder.hidden_size)
    return transform_of(recipe, encoder, projector, encoder_folder)


def transform_of(recipe: Recipe, encoder: ImageEncoder, projector: Projector, encoder_folder: Path) -> ImageTransform:
    """How pictures of a recipe are shown to its encoder and projector."""
    data = recipe.data
    return make_transform(encoder, projector, encoder_folder, data.pad_to_square, data.image_folder, data.reduce_jpeg)
