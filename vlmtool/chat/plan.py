"""Which weights a model is made of: from the words of the command line and the manifests to folders, nothing loaded.

A folder that vlmtool wrote knows its own parts, and flags that name others lose, with a warning; an adapter never
meets a base with other weights unless that is forced, and is never applied to weights that hold it already.
"""

from pathlib import Path

from vlmtool.chat.model_plan import Flags, ModelPlan, PartPlan, Warn
from vlmtool.chat.plan_folder import manifest_plan
from vlmtool.chat.plan_foreign import PLANS
from vlmtool.chat.plan_part import IMPORTS, check_base, holds, language_model
from vlmtool.models.fingerprint import part_hash
from vlmtool.models.imports.kind import FILE_ENDS, Kind, foreign_kind
from vlmtool.models.lineage import Guard
from vlmtool.models.manifest import owner_of_adapter, read_manifest
from vlmtool.utils.errors import CheckpointError, UsageError
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
        return _text_plan(language_model(model), flags, guard)
    manifest = read_manifest(llava)
    if manifest is not None:
        return manifest_plan(llava, manifest, model, flags, warn, guard)
    kind = foreign_kind(llava)
    if kind in PLANS:
        return PLANS[kind](llava, model, flags, warn)
    if other := other_than_model(llava):
        raise UsageError(f"--llava '{llava}': this is {other.what}, not a model folder.\n{other.remedy}")
    what = f"it is {kind.named}" if kind is not None else "it has neither vlmtool.json nor projector/config.json"
    raise UsageError(f"'{llava}' is not a model folder: {what}.{IMPORTS if kind is not None else ''}")


def is_model_folder(folder: Path) -> bool:
    """A whole vision-language model, vlmtool's, XTuner's or LLaVA's, rather than a language model."""
    kind = foreign_kind(folder)
    return kind is Kind.XTUNER_FOLDER or (kind is not None and kind.is_vlm) or read_manifest(folder) is not None


def _folder(name: str, what: str) -> Path:
    """The folder that a person named; a checkpoint in its place is told with how to make one of it."""
    path = Path(name).expanduser()
    if path.is_file() and path.suffix in FILE_ENDS:
        return _file(path, what)
    return local_folder(name, what)


def _file(path: Path, what: str) -> Path:
    """The projector in a file; anything else is told with how to make a folder of it."""
    try:
        kind = foreign_kind(path)
    except CheckpointError:
        if path.suffix != ".pth":
            raise
        kind = None  # cut or empty as it is, it was meant for a checkpoint
    if kind is Kind.LLAVA_PROJECTOR and what == "--llava":
        return path
    if kind is not None:
        raise UsageError(f"{what}: '{path}' is {kind.named}, not a model folder.{IMPORTS}")
    beside = path.with_name("recipe.py")
    config = beside if beside.is_file() else "CONFIG"
    raise UsageError(
        f"{what}: '{path}' is a checkpoint, not a model folder.\n"
        f"Convert it first: vlmtool convert pth_to_hf {config} {path} SAVE_PATH"
    )


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
