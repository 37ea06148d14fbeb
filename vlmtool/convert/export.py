"""What the writers of other tools' layouts share: what these cannot hold, and where a folder comes from."""

from collections.abc import Mapping
from typing import Any

from vlmtool.convert.source import Base, Source
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.imports.vlm import find_vlm
from vlmtool.models.manifest import EncoderPart, Export, Part
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.errors import UsageError


def not_held(save_format: str, what: str) -> UsageError:
    """The error for a model that a format has no place for."""
    return UsageError(f"--save-format {save_format} cannot hold {what}.\nUse --save-format vlmtool: it holds them all.")


def check_one_encoder(save_format: str, recipe: Recipe) -> None:
    """One image encoder of transformers' and an LLM whose adapter, if any, is weights.

    Raises:
        UsageError: there is more to the model.
    """
    section = recipe.vision_encoder
    if section.beside is not None:
        raise not_held(save_format, "two image encoders side by side (vision_encoder.beside)")
    if section.type is not None:
        raise not_held(save_format, f"an encoder that a class of its own reads ({section.type})")
    if recipe.llm.prefix is not None:
        raise not_held(save_format, "a prefix (llm.prefix), keys and values before every prompt")


def check_mlp(
    save_format: str, projector: Mapping[str, Any], depth: int | None = None, act: str | None = None, bias: bool = False
) -> None:
    """The projector is an MLP that the format can hold.

    Args:
        projector: of the checkpoint's meta.
        depth, act: the only ones that it holds; None: any.
        bias: it holds none without.

    Raises:
        UsageError: it is not.
    """
    name, options = str(projector["type"]), projector["options"]
    if name != f"{MLPProjector.__module__}.{MLPProjector.__name__}":
        raise not_held(save_format, f"a {name.rpartition('.')[2]}; of projectors it takes MLPProjector alone")
    if depth is not None and options.get("depth", 2) != depth:
        raise not_held(save_format, f"a projector of depth {options['depth']}, only one of {depth}")
    if act is not None and options.get("hidden_act", "gelu") != act:
        raise not_held(save_format, f"a projector with hidden_act {options['hidden_act']}, only {act}")
    if bias and not options.get("bias", True):
        raise not_held(save_format, "a projector without bias")


def check_clip(save_format: str, encoder: VisionEncoder) -> None:
    """The encoder is a CLIP that sees whole pictures of its own size; other tools' LLaVA code knows no others.

    Raises:
        UsageError: it is not.
    """
    config, reading = encoder.model.config, encoder.reading
    if config.model_type != "clip_vision_model":
        raise not_held(save_format, f"a {type(encoder.model).__name__}; of encoders it takes CLIPVisionModel alone")
    if reading.tiles:
        raise not_held(save_format, "pictures in tiles (vision_encoder.tiles)")
    if encoder.image_size != config.image_size:
        raise not_held(save_format, f"an encoder of {config.image_size} px that sees {encoder.image_size} px")


def check_named(save_format: str, part: str, base: Base) -> None:
    """A part that the format names by its folder is there by itself.

    Raises:
        UsageError: it lies inside a whole vision-language model, which the format's readers cannot open.
    """
    if find_vlm(base.folder) is not None:
        raise not_held(save_format, f"a {part} that lies inside another model ({part}.path = {base.name})")


def export_of(
    source: Source,
    layout: str,
    facts: Mapping[str, Any],
    inside: tuple[str, ...] = (),
    llm: Part | None = None,
    vision_encoder: EncoderPart | None = None,
) -> Export:
    """The manifest of a folder in another tool's layout.

    Args:
        facts: beside the two parts.
        inside: `Export.inside`.
        llm, vision_encoder: where the folder holds something of them by itself; else they name their bases.
    """
    own, encoder = source.llm, source.vision_encoder
    return Export(
        layout=layout,
        inside=inside,
        llm=llm or Part(**_origin(own)),
        vision_encoder=vision_encoder
        or EncoderPart(**_origin(encoder), **Reading.of(source.recipe.vision_encoder).said()),
        **facts,
    )


def _origin(base: Base) -> dict[str, Any]:
    return {"base": base.name, "sha256": base.identity.weights, "config_sha256": base.identity.config}
