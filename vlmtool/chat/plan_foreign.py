"""The parts of what other tools wrote: XTuner's folders, LLaVA's projectors, and whole LLaVA models."""

from collections.abc import Callable
from pathlib import Path

from vlmtool.chat.model_plan import Flags, ModelPlan, PartPlan, Warn
from vlmtool.chat.plan_part import base_folder, language_model, with_adapter
from vlmtool.data.templates.library import template_names
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.imports.kind import Kind
from vlmtool.models.imports.llava import partial_reading
from vlmtool.models.imports.projector import config_beside
from vlmtool.models.imports.vlm import ForeignVlm, find_vlm
from vlmtool.models.manifest import Export, read_lineage
from vlmtool.utils.errors import UsageError
from vlmtool.utils.hub import local_folder

ForeignPlan = Callable[[Path, Path | None, Flags, Warn], ModelPlan]


def xtuner_plan(folder: Path, model: Path | None, flags: Flags, warn: Warn) -> ModelPlan:
    """A folder of XTuner's. Unless vlmtool wrote it, it does not say how it was trained: flags are taken as given."""
    own_llm = next((place for place in (folder / "llm", folder) if (place / "config.json").is_file()), None)
    if own_llm is not None and model is not None and model.resolve() != own_llm.resolve():
        warn(f"'{model}' is not the language model of {folder}; its own is used: {own_llm}")
    llm = own_llm or language_model(model)
    own_encoder = folder / "visual_encoder"
    if own_encoder.is_dir() and flags.visual_encoder is not None:
        raise UsageError(
            f"--visual-encoder: '{folder}' holds an encoder of its own, in visual_encoder/.\nDrop the option."
        )
    trained = read_lineage(folder)
    recorded = trained.vision_encoder.base if trained is not None else ""
    encoder = own_encoder if own_encoder.is_dir() else _named_encoder(folder, recorded, flags)
    llm_plan = with_adapter(llm, _sub_folder(folder, "llm_adapter"))
    own_template = trained.template.name if trained is not None else None
    return ModelPlan(
        llm=llm_plan,
        tokenizer=llm_plan.weights,
        template=flags.prompt_template or (own_template if own_template in template_names() else None),
        stop_words=trained.template.stop_words if trained is not None else (),
        vision_encoder=with_adapter(encoder, _sub_folder(folder, "visual_encoder_adapter")),
        projector=folder / "projector",
        image_processor=encoder,
        reading=_xtuner_reading(folder, trained, flags, warn),
        pad_to_square=trained.pad_to_square if trained is not None else True,
        told=f"{folder}: {Kind.XTUNER_FOLDER}",
    )


def _xtuner_reading(folder: Path, trained: Export | None, flags: Flags, warn: Warn) -> Reading:
    """As it was trained, where vlmtool wrote the folder; else by the flag, and without the first token: XTuner drops it
    of every encoder.
    """
    if trained is None:
        return Reading.of({"select_layer": flags.visual_select_layer, "select_strategy": "patch"})
    reading = Reading.of(trained.vision_encoder)
    _warn_of_layer(folder, reading, flags, warn)
    return reading


def projector_plan(path: Path, model: Path | None, flags: Flags, warn: Warn) -> ModelPlan:
    """A projector of LLaVA's first stage on a language model, with the encoder that the config beside it names."""
    said = config_beside(path)
    llm = language_model(model)
    encoder = _named_encoder(path, str(said.get("mm_vision_tower") or ""), flags)
    reading = partial_reading(said, path)
    if flags.visual_select_layer is not None:
        reading = Reading(select_layer=flags.visual_select_layer, select_strategy=reading.select_strategy)
    return ModelPlan(
        llm=PartPlan(llm),
        tokenizer=llm,
        template=flags.prompt_template,
        vision_encoder=PartPlan(encoder),
        projector=path,
        image_processor=encoder,
        reading=reading,
        pad_to_square=said.get("image_aspect_ratio") == "pad",
        told=f"{path}: {Kind.LLAVA_PROJECTOR}",
    )


def vlm_plan(folder: Path, model: Path | None, flags: Flags, warn: Warn) -> ModelPlan:
    """A whole model, which knows its own parts."""
    vlm = find_vlm(folder)
    if vlm is None:
        raise AssertionError(f"{folder} is no whole model")
    if model is not None:
        warn(f"'{model}' is not the language model of {folder}; its own is used.")
    encoder, processor = _encoder_of(vlm, flags, warn)
    if vlm.facts.vision_config is None:
        vlm = vlm.tiled(getattr(VisionEncoder.model_config(processor), "image_size", None))
    reading = vlm.facts.reading
    _warn_of_layer(folder, reading, flags, warn)
    trained = read_lineage(folder)
    return ModelPlan(
        llm=PartPlan(folder),
        tokenizer=folder,
        template=flags.prompt_template,
        stop_words=trained.template.stop_words if trained is not None else (),
        vision_encoder=encoder,
        projector=folder,
        image_processor=processor,
        reading=reading,
        pad_to_square=vlm.facts.pad_to_square,
        told=f"{folder}: {vlm.source.kind}",
    )


PLANS: dict[Kind, ForeignPlan] = {
    Kind.XTUNER_FOLDER: xtuner_plan,
    Kind.LLAVA_PROJECTOR: projector_plan,
    Kind.LLAVA: vlm_plan,
    Kind.HF_LLAVA: vlm_plan,
}


def _warn_of_layer(folder: Path, reading: Reading, flags: Flags, warn: Warn) -> None:
    if flags.visual_select_layer not in (None, reading.select_layer):
        warn(
            f"--visual-select-layer {flags.visual_select_layer}: {folder} was trained at {reading.select_layer}; used."
        )


def _encoder_of(vlm: ForeignVlm, flags: Flags, warn: Warn) -> tuple[PartPlan, Path]:
    """The encoder of a whole model, and the folder of its image processor."""
    folder = vlm.folder
    if vlm.facts.vision_config is None:
        tower = _named_encoder(folder, vlm.facts.tower, flags)
        return PartPlan(tower, over=folder if vlm.has_encoder else None), tower
    if flags.visual_encoder is not None:
        warn(f"--visual-encoder {flags.visual_encoder}: {folder} holds an encoder of its own, which is used.")
    return PartPlan(folder), folder


def _named_encoder(path: Path, recorded: str, flags: Flags) -> Path:
    """The encoder that a flag names; else the one that was recorded, as seen from here or from `path`."""
    if flags.visual_encoder is not None:
        return local_folder(flags.visual_encoder, "--visual-encoder")
    if not recorded:
        raise UsageError(
            f"'{path}' does not name its image encoder.\nGive the one of its training: --visual-encoder PATH."
        )
    return base_folder(path, recorded, "image encoder", "--visual-encoder PATH")


def _sub_folder(folder: Path, name: str) -> Path | None:
    return folder / name if (folder / name).is_dir() else None
