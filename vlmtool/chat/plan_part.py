"""Which weights one part of a model is made of, and whether they are those of its training."""

from pathlib import Path

from vlmtool.chat.model_plan import PartPlan
from vlmtool.models.fingerprint import identity_of, part_hash
from vlmtool.models.imports.kind import foreign_kind
from vlmtool.models.lineage import Guard
from vlmtool.models.manifest import Base, Part, read_part_manifest
from vlmtool.utils.errors import UsageError
from vlmtool.utils.folder_kind import other_than_model
from vlmtool.utils.hub import recorded_folder

IMPORTS = "\nA training can start from it (init_from); docs/imports.md tells what can be given where."


def language_model(model: Path | None) -> Path:
    """The folder that was given for the language model.

    Raises:
        UsageError: none was, or it is something else.
    """
    if model is None:
        raise UsageError("No language model was named.\nGive its folder or hub id: vlmtool chat LLM --llava FOLDER.")
    if other := other_than_model(model):
        raise UsageError(f"'{model}': this is {other.what}, not a model.\n{other.remedy}")
    if (kind := foreign_kind(model)) is not None and not kind.is_vlm:
        raise UsageError(f"'{model}': this is {kind.named}, not a language model.{IMPORTS}")
    return model


def same_part(folder: Path, part: Part, given: Path) -> PartPlan | None:
    """A plan with the `given` weights where they are the part's base or its merged form, None otherwise."""
    if part.weights is not None:
        own = folder / part.weights
        return PartPlan(own) if part_hash(given) in (part.sha256, part_hash(own)) else None
    adapter = folder / part.adapter if part.adapter is not None else None
    if adapter is not None and holds(given, part_hash(adapter)):
        return PartPlan(given)
    return PartPlan(given, adapter) if part.identity.difference(identity_of(given)) is None else None


def own_plan(folder: Path, part: Part, what: str, remedy: str, guard: Guard) -> PartPlan:
    """The part as its manifest says: weights of the folder, or the base with the folder's adapter."""
    if part.weights is not None:
        return PartPlan(folder / part.weights)
    base = base_folder(folder, part.base, what, remedy)
    check_base(str(folder), part, base, f"Give the {what} of the training: {remedy}.", guard)
    return PartPlan(base, folder / part.adapter if part.adapter is not None else None)


def check_base(trained: str, part: Base, base: Path, remedy: str, guard: Guard) -> None:
    """What was trained on one base is not put on another."""
    if difference := part.identity.difference(identity_of(base)):
        kind, then, now = difference
        guard.refuse(f"{trained} was trained on {part.base} with {kind} {then}; '{base}' has {kind} {now}.", remedy)


def base_folder(folder: Path, base: str, what: str, remedy: str) -> Path:
    """A base as it was recorded, seen from here or from the model folder; else from the hub."""
    try:
        return recorded_folder(base, folder, f"the {what} of {folder}")
    except UsageError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{reason}\nSay where it is: {remedy}.") from error


def holds(folder: Path, adapter_hash: str) -> bool:
    """The weights of `folder` have the adapter inside."""
    manifest = read_part_manifest(folder)
    return manifest is not None and any(merged.sha256 == adapter_hash for merged in manifest.merged)


def with_adapter(weights: Path, adapter: Path | None) -> PartPlan:
    """Weights with the adapter on them, unless they have it inside."""
    return PartPlan(weights, None if adapter is None or holds(weights, part_hash(adapter)) else adapter)
