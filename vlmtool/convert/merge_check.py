"""Whether an adapter belongs on a base, as far as the manifests beside the two say."""

from pathlib import Path

from vlmtool.models.fingerprint import identity_of, part_hash
from vlmtool.models.lineage import Guard
from vlmtool.models.manifest import MergedAdapter, owner_of_adapter, read_part_manifest
from vlmtool.utils.errors import CheckpointError, UsageError
from vlmtool.utils.files import read_json_object


def adapters_inside(base: Path) -> tuple[MergedAdapter, ...]:
    """Adapters that are in the weights of a part already."""
    manifest = read_part_manifest(base)
    return manifest.merged if manifest is not None else ()


def check_origin(base: str, base_folder: Path, adapter: Path, part: str, guard: Guard) -> tuple[str, ...]:
    """The adapter belongs on this base, as far as the manifests beside the two say; what was forced before comes back.

    Raises:
        UsageError: it is another part's adapter, or the base is quantised.
        CheckpointError: the base holds other weights than in training, or has the adapter inside.
    """
    if "quantization_config" in read_json_object(base_folder / "config.json"):
        raise UsageError(f"BASE: '{base}' holds quantised weights.\nGive the 16 or 32-bit weights that they came from.")
    if any(merged.sha256 == part_hash(adapter) for merged in adapters_inside(base_folder)):
        raise CheckpointError(f"'{base}' has the adapter '{adapter}' inside already.\nUse it as it is.")
    before = _forced_into(base_folder)
    owner = owner_of_adapter(adapter)
    if owner is None:
        return before
    name, entry, manifest = owner
    if name != part:
        raise UsageError(
            f"ADAPTER: '{adapter}' is of the {name}, '{base}' is the {part}.\n"
            f"Give the base that it was trained on: {entry.base}"
        )
    if difference := entry.identity.difference(identity_of(base_folder)):
        kind, then, now = difference
        guard.refuse(
            f"'{adapter}' was trained on {entry.base} with {kind} {then}; '{base}' has {kind} {now}.",
            "Give that base.",
        )
    return (*before, *manifest.forced)


def _forced_into(base: Path) -> tuple[str, ...]:
    """What was forced when a merged part that serves as a base was made."""
    manifest = read_part_manifest(base)
    return manifest.forced if manifest is not None else ()
