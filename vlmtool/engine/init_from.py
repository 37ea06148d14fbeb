"""Start from the stage before, a run folder, a checkpoint or a model folder, or from what another tool wrote; or go on
with the same stage.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmtool.engine.init_foreign import load_foreign
from vlmtool.engine.setups import setup_of_checkpoint, setup_of_folder
from vlmtool.models.checkpoint import last_checkpoint, read_checkpoint
from vlmtool.models.fingerprint import file_hashes
from vlmtool.models.folder import load_tensors
from vlmtool.models.imports.fit import ImportReport
from vlmtool.models.imports.kind import foreign_kind
from vlmtool.models.imports.read import find_foreign
from vlmtool.models.lineage import Guard, Setup, check_setup, parent_entry, stage_of
from vlmtool.models.lora import name_in_model
from vlmtool.models.manifest import FILE_NAME, Manifest, read_manifest
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.models.weights import LoadReport, load_weights, saved_names
from vlmtool.recipe.catalog import WORK_DIRS
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import CheckpointError, UsageError
from vlmtool.utils.hub import is_hub_id, local_folder

ROW_END = "projector.row_end"  # may be new: LLaVA-NeXT aligns on whole pictures and tiles them afterwards


@dataclass(frozen=True)
class Start:
    """What a run takes over."""

    loaded: list[str] = field(default_factory=list)
    """Names of weights taken from the stage before."""
    parents: list[dict[str, Any]] = field(default_factory=list)
    """From the stage before back to the first, for the checkpoints of this run."""
    forced: list[str] = field(default_factory=list)
    """Refusals that were overridden, here and before."""
    imported: ImportReport | None = None
    """What became of the weights of another tool."""


def find_source(init_from: str) -> Path:
    """The checkpoint or model folder that `init_from` means; a hub id is looked up in the local cache, then downloaded.

    Raises:
        UsageError: there is none.
    """
    path = Path(init_from).expanduser()
    if not path.exists() and _may_be_hub_id(init_from):
        path = local_folder(init_from, "init_from")
    if path.is_file():
        return path
    if path.is_dir():
        if (path / FILE_NAME).is_file():
            return path
        newest = last_checkpoint(path)
        if newest is not None:
            return newest
        if foreign_kind(path) is not None:
            return path
        if path.suffix == ".pth":
            raise UsageError(
                f"init_from: '{init_from}' is a folder of DeepSpeed's shards, not one .pth.\n"
                "Convert it with the tool that wrote it (xtuner convert pth_to_hf), and name that folder."
            )
        raise UsageError(
            f"init_from: '{init_from}' holds no checkpoint yet, and no model that vlmtool knows.\n"
            "Run the stage before to its end first, or name another folder."
        )
    raise UsageError(
        f"init_from: there is no '{init_from}'.\nRun the stage before, or start without it: --set init_from=None."
    )


def _may_be_hub_id(name: str) -> bool:
    """Of the form owner/name, and not a run that has not begun: those lie in a folder that is here, or in work_dirs."""
    first = Path(name).parts[0] if name else ""
    return is_hub_id(name) and first != str(WORK_DIRS) and not Path(first).is_dir()


def start_stage(
    model: VisionLanguageModel,
    setup: Setup,
    source: Path | None,
    resume_from: Path | None,
    force: bool = False,
) -> Start:
    """Put the weights of the stage before into the model, or take over the lineage of the run that goes on.

    Args:
        setup: of this run; the weights must belong into it.
        source: checkpoint or model folder of the stage before; None starts afresh.
        resume_from: checkpoint of this run; the runner puts its weights back, later.
        force: warn where the weights could work but do not belong into this setup.

    Raises:
        CheckpointError: they do not, or the source is damaged.
    """
    guard = Guard(force)
    if resume_from is not None:
        checkpoint = read_checkpoint(resume_from, "resume")
        meta = checkpoint.meta
        check_setup(setup_of_checkpoint(meta, checkpoint.state_dict), setup, str(resume_from), guard, may_move_on=False)
        _check_weights(model, checkpoint.state_dict, resume_from)
        return Start([], meta["parents"], _joined(meta.get("forced", ()), guard.overridden))
    if source is None:
        return Start()
    manifest = read_manifest(source) if source.is_dir() else None
    if manifest is not None:
        return _from_folder(model, setup, source, manifest, guard)
    if (foreign := find_foreign(source)) is not None:
        loaded, parent, told = load_foreign(model, setup, foreign, guard)
        return Start(loaded, [parent], _joined((), guard.overridden), told)
    checkpoint = read_checkpoint(source, "init_from")
    meta = checkpoint.meta
    check_setup(setup_of_checkpoint(meta, checkpoint.state_dict), setup, str(source), guard)
    report = _load(model, checkpoint.state_dict, source)
    return Start(
        report.loaded,
        [parent_entry(source, meta), *meta["parents"]],
        _joined(meta.get("forced", ()), guard.overridden),
    )


def _from_folder(model: VisionLanguageModel, setup: Setup, folder: Path, manifest: Manifest, guard: Guard) -> Start:
    """Projector and adapters of a model folder."""
    state: dict[str, Tensor] = {}
    for part, prefix in (("llm", "llm."), ("vision_encoder", "vision_encoder.model.")):
        entry = getattr(manifest, part)
        if entry.weights is not None:
            raise CheckpointError(
                f"init_from: '{folder}' holds a {part} of its own.\n"
                f"Name it as the part: --set {part}.path={folder / entry.weights}, and start from the run's checkpoint."
            )
        if entry.adapter is not None:
            adapter = load_tensors(folder / entry.adapter / "adapter_model.safetensors")
            state |= {prefix + name_in_model(name): value for name, value in adapter.items()}
    check_setup(setup_of_folder(folder, manifest), setup, str(folder), guard)
    projector = load_tensors(folder / manifest.projector / "model.safetensors")
    state |= {f"projector.{name}": value for name, value in projector.items()}
    report = _load(model, state, folder)
    manifest_file = folder / FILE_NAME  # it holds the hashes of all other files, so its own stands for the folder
    parent = {
        "checkpoint": str(folder),
        "sha256": file_hashes([manifest_file])[manifest_file],
        "name": folder.name,
        "stage": stage_of(manifest.recipe),
    }
    return Start(report.loaded, [parent, *manifest.parents], _joined(manifest.forced, guard.overridden))


def _load(model: VisionLanguageModel, state: Mapping[str, Tensor], source: Path) -> LoadReport:
    """Weights into the model; adapters may be new in this stage, a projector that is there is there whole."""
    report = load_weights(model, state, str(source), saved_names(model))
    fresh = [name for name in report.fresh if name.startswith("projector.") and name != ROW_END]
    if fresh:
        raise CheckpointError(
            f"{source}: has {counted(len(fresh), 'weight')} of the projector too few, first '{fresh[0]}'.\n"
            "Give the recipe the projector of the stage before."
        )
    return report


def _check_weights(model: VisionLanguageModel, state: Mapping[str, Tensor], checkpoint: Path) -> None:
    """The checkpoint to go on from holds the very weights that this run trains."""
    own = dict(model.named_parameters())
    now = {name: tuple(own[name].shape) for name in saved_names(model)}
    then = {name: tuple(value.shape) for name, value in state.items()}
    differing = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if differing:
        first = differing[0]
        raise CheckpointError(
            f"{checkpoint}: this recipe trains other weights: {counted(len(differing), 'tensor')} differ in name or "
            f"shape, first '{first}' ({then.get(first, 'none')} → {now.get(first, 'none')}).\n"
            "Resume with the recipe it was trained with, or start from its weights (init_from) without --resume."
        )


def _joined(before: Iterable[str], now: Iterable[str]) -> list[str]:
    """Both, each text once."""
    return list(dict.fromkeys([*before, *now]))
