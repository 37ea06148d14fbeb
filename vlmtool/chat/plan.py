"""Which weights a model is made of: from the words of the command line and the manifests to folders, nothing loaded.

A folder that vlmtool wrote knows its own parts, and flags that name others lose, with a warning; an adapter never
meets a base with other weights unless that is forced, and is never applied to weights that hold it already.
"""

from pathlib import Path

from vlmtool.chat.model_plan import Flags, ModelPlan, PartPlan, Warn
from vlmtool.chat.plan_folder import manifest_plan
from vlmtool.chat.plan_part import check_base, holds
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.fingerprint import part_hash
from vlmtool.models.lineage import Guard
from vlmtool.models.manifest import owner_of_adapter, read_manifest
from vlmtool.utils.errors import UsageError
from vlmtool.utils.folder_kind import other_than_model
from vlmtool.utils.hub import local_folder


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
        return manifest_plan(llava, manifest, model, flags, warn, guard)
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
    if adapter is not None and holds(model, part_hash(adapter)):
        adapter = None
    owner = owner_of_adapter(adapter) if adapter is not None else None
    if owner is not None:
        check_base(f"the adapter {adapter}", owner[1], model, "Give that language model.", guard)
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
    return PartPlan(weights, None if adapter is None or holds(weights, part_hash(adapter)) else adapter)
