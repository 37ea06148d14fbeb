"""The parts of a model folder of vlmtool's, as its manifest says."""

from pathlib import Path

from vlmtool.chat.model_plan import BesidePlan, Flags, ModelPlan, PartPlan, Warn
from vlmtool.chat.plan_part import base_folder, check_base, own_plan, same_part
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.fingerprint import part_hash
from vlmtool.models.lineage import Guard
from vlmtool.models.manifest import FILE_NAME, BesidePart, EncoderPart, Manifest, Part
from vlmtool.models.parts import BESIDE
from vlmtool.utils.hub import is_hub_id, local_folder


def manifest_plan(
    folder: Path, manifest: Manifest, model: Path | None, flags: Flags, warn: Warn, guard: Guard
) -> ModelPlan:
    """A folder of vlmtool's; the flags may only say where its parts lie."""
    encoder = manifest.vision_encoder
    if flags.visual_select_layer not in (None, encoder.select_layer):
        warn(
            f"--visual-select-layer {flags.visual_select_layer}: {folder} was trained at {encoder.select_layer}; used."
        )
    if flags.prompt_template not in (None, manifest.template.name):
        own = manifest.template.name or "its tokenizer's own template"
        warn(f"--prompt-template {flags.prompt_template}: {folder} was trained with {own}; used.")
    return ModelPlan(
        llm=_llm_plan(folder, manifest.llm, model, warn, guard),
        tokenizer=folder,
        template=None,
        stop_words=manifest.template.stop_words,
        vision_encoder=_encoder_plan(folder, encoder, flags.visual_encoder, warn, guard),
        projector=folder / manifest.projector,
        image_processor=folder,
        beside=_beside_plan(folder, encoder.beside, guard) if encoder.beside is not None else None,
        reading=Reading.of(encoder),
        pad_to_square=manifest.pad_to_square,
    )


def _llm_plan(folder: Path, part: Part, given: Path | None, warn: Warn, guard: Guard) -> PartPlan:
    """The folder's LLM, or the one given if it is the same: its base, or the base with its adapter merged in."""
    if given is None:
        return own_plan(folder, part, "language model", f"vlmtool chat LLM --llava {folder}", guard)
    if part.weights is not None:
        if part_hash(given) not in (part.sha256, part_hash(folder / part.weights)):
            warn(f"'{given}' is not the language model of {folder}; its own is used: {folder / part.weights}")
        return PartPlan(folder / part.weights)
    if (plan := same_part(folder, part, given)) is not None:
        return plan
    remedy = "Give that language model, or its merge with this folder's adapter."
    check_base(str(folder), part, given, remedy, guard)
    return PartPlan(given, folder / part.adapter if part.adapter is not None else None)


def _encoder_plan(folder: Path, part: EncoderPart, given: str | None, warn: Warn, guard: Guard) -> PartPlan:
    """The folder's encoder; the one given only if it is the same."""
    remedy = "--visual-encoder PATH"
    if given is None or given == part.base:
        return own_plan(folder, part, "image encoder", remedy, guard)
    # Another hub id is another encoder: it is not downloaded only to be refused.
    path = None if is_hub_id(given) and not Path(given).is_dir() else local_folder(given, "--visual-encoder")
    if path is not None and (plan := same_part(folder, part, path)) is not None:
        return plan
    own = own_plan(folder, part, "image encoder", remedy, guard)
    warn(f"--visual-encoder {given} is not the encoder of {folder}; its own is used: {part.weights or part.base}")
    return own


def _beside_plan(folder: Path, part: BesidePart, guard: Guard) -> BesidePlan:
    """The second encoder of a pair, of which the folder holds the image processor alone."""
    what, remedy = "second image encoder", f"{BESIDE}.base in {folder / FILE_NAME}"
    base = base_folder(folder, part.base, what, remedy)
    check_base(str(folder), part, base, f"Give the {what} of the training: {remedy}.", guard)
    return BesidePlan(base, folder / part.image_processor)
