"""From a training's `.pth` to a model folder. What was not trained is not loaded, let alone quantised."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from vlmtool.convert.parts import cast, save_adapter, save_encoder, save_llm, stored_dtype
from vlmtool.convert.source import Base, Source, check_names, read_source
from vlmtool.convert.target import check_target, new_folder
from vlmtool.data.image_processor import load_image_processor
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.models.build import load_encoder_weights
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import encoder_class
from vlmtool.models.folder import save_projector
from vlmtool.models.lineage import Guard, parent_entry, text_hash
from vlmtool.models.llm import check_llm_folder, read_llm_config
from vlmtool.models.manifest import BesidePart, EncoderPart, Manifest, Part, Template, remember_folder, write_manifest
from vlmtool.models.weights import load_weights
from vlmtool.recipe.parts import TunablePart
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.errors import CheckpointError, UsageError, did_you_mean

SAVE_FORMATS = ("vlmtool",)


@dataclass(frozen=True)
class _Writing:
    """How weights are written."""

    fp32: bool
    max_shard_size: str

    def dtype(self, base: Base) -> torch.dtype:
        """Of a part: its base's, unless float32 is asked for."""
        return torch.float32 if self.fp32 else stored_dtype(base.folder)


def pth_to_hf(
    recipe: Recipe | None,
    checkpoint: Path,
    save_path: Path,
    save_format: str = "vlmtool",
    fp32: bool = False,
    max_shard_size: str = "5GB",
    force: bool = False,
) -> Path:
    """Write the model folder of a checkpoint, whole or not at all.

    Args:
        recipe: of the training; it may say otherwise of data, schedule and runtime, and where the bases lie now. None
            takes the one in the checkpoint.
        force: warn where the recipe or a base is not the one of the training; what is written follows the checkpoint,
            on the base that was named, and its manifest records what was overridden.
        fp32: write float32; else each part in the type of its base, the projector in the LLM's.

    Returns:
        `save_path`.

    Raises:
        UsageError: a file that is not there, a format that is not known, a folder that must not be replaced.
        CheckpointError: the checkpoint is damaged, or does not agree with the recipe or its bases.
    """
    check_format(save_format)
    check_target(save_path, [checkpoint])
    guard = Guard(force)
    source = read_source(recipe, checkpoint, guard)
    bases = [base for base in (source.llm, source.vision_encoder, source.beside) if base is not None]
    check_target(save_path, [base.folder for base in bases])
    writing = _Writing(fp32, max_shard_size)
    with new_folder(save_path) as folder:
        folder.mkdir()
        llm = _write_llm(source, folder, writing)
        encoder = _write_encoder(source, folder, writing)
        projector = cast(source.state("projector"), writing.dtype(source.llm), str(checkpoint))
        save_projector(folder / "projector", source.meta["projector"], projector)
        _write_prompting(source, folder)
        write_manifest(folder, _manifest(source, llm, encoder, guard.overridden))
    remember_folder(save_path)
    return save_path


def check_format(save_format: str) -> None:
    """The format is one of `SAVE_FORMATS`.

    Raises:
        UsageError: it is not.
    """
    if save_format not in SAVE_FORMATS:
        raise UsageError(
            f"--save-format {save_format}: not known.{did_you_mean(save_format, SAVE_FORMATS)}\n"
            f"It takes {', '.join(SAVE_FORMATS)}."
        )


def _write_llm(source: Source, folder: Path, writing: _Writing) -> Part:
    """`llm_adapter/` or `llm/`, or nothing for a frozen LLM."""
    section, base = source.recipe.llm, source.llm
    state = cast(source.state("llm"), writing.dtype(base), str(source.checkpoint.path))
    if section.adapter is not None:
        settings = {**source.meta["adapters"]["llm"], "base_model_name_or_path": base.name}
        save_adapter(folder / "llm_adapter", settings, state)
    elif section.is_fully_trained:
        llm = _filled_llm(base.folder, state, source)
        save_llm(llm, base.folder, folder / "llm", writing.max_shard_size)
    return Part(**_entry(section, base, "llm"))


def _filled_llm(base: Path, state: dict[str, Tensor], source: Source) -> PreTrainedModel:
    """The LLM's modules around the weights of the checkpoint; those of the base are not read."""
    path, trust = source.checkpoint.path, source.trust_remote_code
    check_llm_folder(base, trust)
    config = read_llm_config(base, trust)
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(config, dtype=next(iter(state.values())).dtype, trust_remote_code=trust)
    try:
        unknown = llm.load_state_dict(state, strict=False, assign=True).unexpected_keys
    except RuntimeError as error:  # shapes
        raise CheckpointError(
            f"{path}: does not fit the LLM at {base}: {str(error).splitlines()[-1].strip()}"
        ) from error
    llm.tie_weights()
    missing = [name for name, weight in llm.named_parameters() if weight.is_meta]
    check_names(state, [*(name for name in state if name not in unknown), *missing], f"{path}: llm")
    return llm


def _write_encoder(source: Source, folder: Path, writing: _Writing) -> EncoderPart:
    """`visual_encoder_adapter/` or `visual_encoder/`, or nothing for a frozen encoder."""
    section, base = source.recipe.vision_encoder, source.vision_encoder
    dtype, where = writing.dtype(base), str(source.checkpoint.path)
    state = cast(source.state("vision_encoder.model"), dtype, where)
    if section.adapter is not None:
        settings = {**source.meta["adapters"]["vision_encoder"], "base_model_name_or_path": base.name}
        settings["auto_mapping"] = _auto_mapping(base.folder, section.type)
        save_adapter(folder / "visual_encoder_adapter", settings, state)
    elif section.is_fully_trained:
        # The blocks above the selected layer had no part in the training: they are the base's.
        check_names(state, _trained_names(source), f"{where}: vision_encoder")
        encoder = load_encoder_weights(base.folder, dtype, section.type)
        load_weights(encoder, state, where)
        save_encoder(encoder, base.folder, folder / "visual_encoder", writing.max_shard_size)
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


def _trained_names(source: Source) -> list[str]:
    """Names of all weights of the encoder up to the selected layer; nothing is loaded."""
    base, section = source.vision_encoder.folder, source.recipe.vision_encoder
    cls = encoder_class(section.type)
    kept = cls(cls.empty_model(base), Reading.of(section)).model
    return [name for name, _ in kept.named_parameters()]


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


def _manifest(source: Source, llm: Part, encoder: EncoderPart, forced: list[str]) -> Manifest:
    meta, said = source.meta, source.meta["template"]
    template = Template(name=said["name"], sha256=text_hash(said["jinja"]), stop_words=tuple(said["stop_words"]))
    return Manifest(
        llm=llm,
        vision_encoder=encoder,
        projector_config=meta["projector"],
        template=template,
        pad_to_square=source.recipe.data.pad_to_square,
        recipe=meta["recipe"],
        parents=(parent_entry(source.checkpoint.path, meta), *meta["parents"]),
        data=meta["data"],
        versions=meta["versions"],
        forced=tuple(dict.fromkeys([*meta.get("forced", ()), *forced])),
    )
