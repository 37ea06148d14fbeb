"""vlmtool's own model folder: adapters or whole parts, what was not trained stays with its base."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmtool.convert.parts import cast, save_adapter, save_encoder, save_llm
from vlmtool.convert.source import Base, Source
from vlmtool.convert.whole import Writing, filled_encoder, filled_llm
from vlmtool.data.image_processor import load_image_processor
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.models.build import load_encoder_weights
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import encoder_class
from vlmtool.models.folder import save_projector
from vlmtool.models.manifest import BesidePart, EncoderPart, Manifest, Part
from vlmtool.recipe.parts import TunablePart

Names = Callable[[Mapping[str, Tensor], str], dict[str, Tensor]]
_IN_PEFT = "base_model.model"  # what peft puts before a model's own names


def write_vlmtool(source: Source, folder: Path, writing: Writing, facts: dict[str, Any]) -> Manifest:
    """Fill a new folder; what was not trained is not loaded, let alone quantised.

    Args:
        facts: of the manifest, beside the two parts.
    """
    llm = write_llm(source, folder, writing)
    encoder = write_encoder(source, folder, writing)
    projector = cast(source.state("projector"), writing.dtype(source.llm), str(source.checkpoint.path))
    save_projector(folder / "projector", source.meta["projector"], projector)
    _write_prompting(source, folder)
    return Manifest(llm=llm, vision_encoder=encoder, **facts)


def write_llm(source: Source, folder: Path, writing: Writing) -> Part:
    """`llm_adapter/` or `llm/`, or nothing for a frozen LLM."""
    section, base = source.recipe.llm, source.llm
    state = cast(source.state("llm"), writing.dtype(base), str(source.checkpoint.path))
    if section.adapter is not None:
        settings = {**source.meta["adapters"]["llm"], "base_model_name_or_path": base.name}
        save_adapter(folder / "llm_adapter", settings, state)
    elif section.is_fully_trained:
        llm = filled_llm(base.folder, state, source)
        save_llm(llm, base.folder, folder / "llm", writing.max_shard_size)
    return Part(**_entry(section, base, "llm"))


def write_encoder(source: Source, folder: Path, writing: Writing, names: Names | None = None) -> EncoderPart:
    """`visual_encoder_adapter/` or `visual_encoder/`, or nothing for a frozen encoder.

    Args:
        names: gives weights other names than those of the class; called with what the names begin with.
    """
    section, base = source.recipe.vision_encoder, source.vision_encoder
    dtype = writing.dtype(base)
    state = cast(source.state("vision_encoder.model"), dtype, str(source.checkpoint.path))
    if section.adapter is not None:
        settings = {**source.meta["adapters"]["vision_encoder"], "base_model_name_or_path": base.name}
        settings["auto_mapping"] = _auto_mapping(base.folder, section.type)
        save_adapter(folder / "visual_encoder_adapter", settings, names(state, _IN_PEFT) if names else state)
    elif section.is_fully_trained:
        # The blocks above the selected layer had no part in the training: they are the base's.
        encoder = filled_encoder(load_encoder_weights(base.folder, dtype, section.type), state, source)
        renamed = names(encoder.state_dict(), "") if names else None
        save_encoder(encoder, base.folder, folder / "visual_encoder", writing.max_shard_size, renamed)
    said = Reading.of(section).said()
    beside = _write_beside(source.beside, folder, said.pop("beside", {}))
    return EncoderPart(**_entry(section, base, "visual_encoder"), **said, beside=beside)


def _write_beside(base: Base | None, folder: Path, reading: dict[str, Any]) -> BesidePart | None:
    """The second encoder of a pair is frozen: of it the folder holds the image processor, as it does of the first."""
    if base is None:
        return None
    load_image_processor(base.folder).save_pretrained(folder / "visual_encoder_beside")
    known = dict(base=base.name, sha256=base.identity.weights, config_sha256=base.identity.config)
    return BesidePart(**{**reading, **known, "image_processor": "visual_encoder_beside"})


def _auto_mapping(base: Path, reader: str | None) -> dict[str, str]:
    """What peft notes of a model that has no task, so that `AutoPeftModel` finds its class."""
    cls = encoder_class(reader).model_class(base)
    return {"base_model_class": cls.__name__, "parent_library": cls.__module__}


def _entry(section: TunablePart, base: Base, name: str) -> dict[str, Any]:
    """A part's entry in the manifest."""
    adapter = f"{name}_adapter" if section.adapter is not None else None
    weights = name if section.is_fully_trained else None
    known = dict(sha256=base.identity.weights, config_sha256=base.identity.config)
    return dict(base=base.name, adapter=adapter, weights=weights, **known)


def _write_prompting(source: Source, folder: Path) -> None:
    """Tokenizer, with the training's template and the image tag, and image processor: the root of the folder."""
    tokenizer = load_tokenizer(source.llm.folder, source.trust_remote_code)
    tokenizer.chat_template = source.meta["template"]["jinja"]
    tokenizer.save_pretrained(folder)
    section, base = source.recipe.vision_encoder, source.vision_encoder.folder
    load_image_processor(base, section.image_size).save_pretrained(folder)
