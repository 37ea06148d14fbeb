"""Which weights a model is made of: from the words of the command line and the manifests to folders, nothing loaded.

A folder that vlmtool wrote knows its own parts, and flags that name others lose, with a warning; an adapter never
meets a base with other weights unless that is forced, and is never applied to weights that hold it already.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vlmtool.models.encoders.reading import Reading
from vlmtool.models.fingerprint import identity_of, part_hash
from vlmtool.models.lineage import Guard
from vlmtool.models.manifest import EncoderPart, Manifest, Part, owner_of_adapter, read_manifest, read_part_manifest
from vlmtool.utils.errors import UsageError
from vlmtool.utils.folder_kind import other_than_model
from vlmtool.utils.hub import is_hub_id, local_folder, recorded_folder

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Flags:
    """What the command line said of the parts."""

    model: str | None = None
    llava: str | None = None
    adapter: str | None = None
    visual_encoder: str | None = None
    visual_select_layer: int | None = None
    prompt_template: str | None = None


@dataclass(frozen=True)
class PartPlan:
    """Weights of a part, and the adapter to put on them."""

    weights: Path
    adapter: Path | None = None


@dataclass(frozen=True)
class ModelPlan:
    """All that is needed to build a model. A language model alone has no encoder, projector and image processor."""

    llm: PartPlan
    tokenizer: Path
    template: str | None
    """Name of the chat template; None takes the tokenizer's own."""
    stop_words: tuple[str, ...] = ()
    vision_encoder: PartPlan | None = None
    projector: Path | None = None
    image_processor: Path | None = None
    reading: Reading = Reading()
    pad_to_square: bool = True


def make_plan(flags: Flags, warn: Warn, force: bool = False) -> ModelPlan:
    """Find every part.

    Args:
        force: warn where an adapter meets a base that it was not trained on.

    Raises:
        UsageError: a path that is not there, or flags that do not go together.
        CheckpointError: parts that do not belong together.
    """
    if flags.model is None and flags.llava is None:
        raise UsageError("No model was named.\nGive a model folder, or a language model and --llava FOLDER.")
    if flags.llava is not None and flags.adapter is not None:
        raise UsageError("--adapter and --llava exclude each other.\nThe --llava folder holds its own adapter.")
    model = _folder(flags.model, "MODEL") if flags.model is not None else None
    llava = _folder(flags.llava, "--llava") if flags.llava is not None else None
    if model is not None and is_model_folder(model):
        if llava is not None and llava.resolve() != model.resolve():
            raise UsageError(
                f"'{model}' and '{llava}' are both whole models.\n"
                "Name one of them, or give a plain language model before --llava."
            )
        if flags.adapter is not None:
            raise UsageError(f"--adapter: '{model}' is a whole model and holds its own adapter.\nDrop the option.")
        model, llava = None, model
    guard = Guard(force)
    if llava is None:
        return _text_plan(_required(model), flags, guard)
    manifest = read_manifest(llava)
    if manifest is not None:
        return _manifest_plan(llava, manifest, model, flags, warn, guard)
    if (llava / "projector" / "config.json").is_file():
        return _foreign_plan(llava, model, flags)
    if other := other_than_model(llava):
        raise UsageError(f"--llava '{llava}': this is {other.what}, not a model folder.\n{other.remedy}")
    raise UsageError(f"'{llava}' is not a model folder: it has neither vlmtool.json nor projector/config.json.")


def is_model_folder(folder: Path) -> bool:
    """A whole vision-language model, vlmtool's or XTuner's, rather than a language model."""
    return read_manifest(folder) is not None or (folder / "projector" / "config.json").is_file()


def _folder(name: str, what: str) -> Path:
    """The folder that a person named; a checkpoint in its place is told with how to make one of it."""
    path = Path(name).expanduser()
    if path.suffix == ".pth" and path.is_file():
        beside = path.with_name("recipe.py")
        config = beside if beside.is_file() else "CONFIG"
        raise UsageError(
            f"{what}: '{name}' is a checkpoint, not a model folder.\n"
            f"Convert it first: vlmtool convert pth_to_hf {config} {path} SAVE_PATH"
        )
    return local_folder(name, what)


def _required(model: Path | None) -> Path:
    if model is None:
        raise UsageError("No language model was named.\nGive its folder or hub id before --llava.")
    if other := other_than_model(model):
        raise UsageError(f"'{model}': this is {other.what}, not a model.\n{other.remedy}")
    return model


def _text_plan(model: Path, flags: Flags, guard: Guard) -> ModelPlan:
    """A language model alone."""
    if flags.visual_encoder is not None:
        raise UsageError("--visual-encoder needs a projector.\nName the folder that holds it: --llava FOLDER.")
    adapter = local_folder(flags.adapter, "--adapter") if flags.adapter is not None else None
    if adapter is not None and _holds(model, part_hash(adapter)):
        adapter = None
    owner = owner_of_adapter(adapter) if adapter is not None else None
    if owner is not None:
        _check_base(f"the adapter {adapter}", owner[1], model, "Give that language model.", guard)
    return ModelPlan(PartPlan(model, adapter), tokenizer=model, template=flags.prompt_template)


def _foreign_plan(folder: Path, model: Path | None, flags: Flags) -> ModelPlan:
    """A folder of XTuner's: it does not say what it was trained with, so flags are taken as given."""
    llm = folder / "llm" if model is None and (folder / "llm").is_dir() else model
    if llm is None and (folder / "config.json").is_file():
        llm = folder
    own_encoder = folder / "visual_encoder"
    if own_encoder.is_dir() and flags.visual_encoder is not None:
        raise UsageError(
            f"--visual-encoder: '{folder}' holds an encoder of its own, in visual_encoder/.\nDrop the option."
        )
    if not own_encoder.is_dir() and flags.visual_encoder is None:
        raise UsageError(
            f"'{folder}' does not name its image encoder.\nGive the one of its training: --visual-encoder PATH."
        )
    encoder = own_encoder if flags.visual_encoder is None else local_folder(flags.visual_encoder, "--visual-encoder")
    llm_plan = _with_adapter(_required(llm), _sub_folder(folder, "llm_adapter"))
    return ModelPlan(
        llm=llm_plan,
        tokenizer=llm_plan.weights,
        template=flags.prompt_template,
        vision_encoder=_with_adapter(encoder, _sub_folder(folder, "visual_encoder_adapter")),
        projector=folder / "projector",
        image_processor=encoder,
        reading=Reading.of({"select_layer": flags.visual_select_layer}),
    )


def _sub_folder(folder: Path, name: str) -> Path | None:
    return folder / name if (folder / name).is_dir() else None


def _with_adapter(weights: Path, adapter: Path | None) -> PartPlan:
    return PartPlan(weights, None if adapter is None or _holds(weights, part_hash(adapter)) else adapter)


def _manifest_plan(
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
        reading=Reading.of(encoder),
        pad_to_square=manifest.pad_to_square,
    )


def _llm_plan(folder: Path, part: Part, given: Path | None, warn: Warn, guard: Guard) -> PartPlan:
    """The folder's LLM, or the one given if it is the same: its base, or the base with its adapter merged in."""
    if given is None:
        return _own_plan(folder, part, "language model", f"vlmtool chat LLM --llava {folder}", guard)
    if part.weights is not None:
        if part_hash(given) not in (part.sha256, part_hash(folder / part.weights)):
            warn(f"'{given}' is not the language model of {folder}; its own is used: {folder / part.weights}")
        return PartPlan(folder / part.weights)
    if (plan := _same_part(folder, part, given)) is not None:
        return plan
    remedy = "Give that language model, or its merge with this folder's adapter."
    _check_base(str(folder), part, given, remedy, guard)
    return PartPlan(given, folder / part.adapter if part.adapter is not None else None)


def _encoder_plan(folder: Path, part: EncoderPart, given: str | None, warn: Warn, guard: Guard) -> PartPlan:
    """The folder's encoder; the one given only if it is the same."""
    remedy = "--visual-encoder PATH"
    if given is None or given == part.base:
        return _own_plan(folder, part, "image encoder", remedy, guard)
    # Another hub id is another encoder: it is not downloaded only to be refused.
    path = None if is_hub_id(given) and not Path(given).is_dir() else local_folder(given, "--visual-encoder")
    if path is not None and (plan := _same_part(folder, part, path)) is not None:
        return plan
    own = _own_plan(folder, part, "image encoder", remedy, guard)
    warn(f"--visual-encoder {given} is not the encoder of {folder}; its own is used: {part.weights or part.base}")
    return own


def _same_part(folder: Path, part: Part, given: Path) -> PartPlan | None:
    """A plan with the `given` weights where they are the part's base or its merged form, None otherwise."""
    if part.weights is not None:
        own = folder / part.weights
        return PartPlan(own) if part_hash(given) in (part.sha256, part_hash(own)) else None
    adapter = folder / part.adapter if part.adapter is not None else None
    if adapter is not None and _holds(given, part_hash(adapter)):
        return PartPlan(given)
    return PartPlan(given, adapter) if part.identity.difference(identity_of(given)) is None else None


def _own_plan(folder: Path, part: Part, what: str, remedy: str, guard: Guard) -> PartPlan:
    """The part as its manifest says: weights of the folder, or the base with the folder's adapter."""
    if part.weights is not None:
        return PartPlan(folder / part.weights)
    base = _base_folder(folder, part.base, what, remedy)
    _check_base(str(folder), part, base, f"Give the {what} of the training: {remedy}.", guard)
    return PartPlan(base, folder / part.adapter if part.adapter is not None else None)


def _check_base(trained: str, part: Part, base: Path, remedy: str, guard: Guard) -> None:
    """What was trained on one base is not put on another."""
    if difference := part.identity.difference(identity_of(base)):
        kind, then, now = difference
        guard.refuse(f"{trained} was trained on {part.base} with {kind} {then}; '{base}' has {kind} {now}.", remedy)


def _base_folder(folder: Path, base: str, what: str, remedy: str) -> Path:
    """A base as it was recorded, seen from here or from the model folder; else from the hub."""
    try:
        return recorded_folder(base, folder, f"the {what} of {folder}")
    except UsageError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{reason}\nSay where it is: {remedy}.") from error


def _holds(folder: Path, adapter_hash: str) -> bool:
    """The weights of `folder` have the adapter inside."""
    manifest = read_part_manifest(folder)
    return manifest is not None and any(merged.sha256 == adapter_hash for merged in manifest.merged)
