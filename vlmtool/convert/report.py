"""What `inspect` found out: plain values, and the pieces that every kind of path shares."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vlmtool.convert.disk import Check, Files, check_file, damaged_files
from vlmtool.models.fingerprint import SHORT
from vlmtool.models.manifest import Part, PartManifest, listed_files
from vlmtool.utils.files import read_json_object

LOOKED_FOR = (
    "Looked for: iter_N.pth, a run folder (last_checkpoint), vlmtool.json, adapter_config.json, a part's config.json."
)


@dataclass(frozen=True)
class PartReport:
    """A part: how it was trained, the base it was trained from, and what the folder holds of it."""

    name: str
    trained: str = ""
    """As `lineage.stage_of` says; empty where it is not known."""
    about: str = ""
    base: str = ""
    base_check: Check | None = None
    held: str = ""
    """Sub-folder of the folder, or empty."""
    held_check: Check | None = None
    merged: list[str] = field(default_factory=list)
    """Adapters inside the weights: short hash and where it lay."""


@dataclass(frozen=True)
class Report:
    """All that is known of a path. What does not apply is empty."""

    path: str
    kind: str
    """`checkpoint`, `run folder`, `model folder`, `merged part`, `peft adapter`, `Hugging Face part`, `projector`, or a
    `Kind` of another tool's."""
    detail: str = ""
    """Which checkpoint of a run folder, which model folder an adapter is of, or a folder's format if not vlmtool's."""
    recipe: str = ""
    step: int | None = None
    epoch: int | None = None
    sha256: str = ""
    """Of a checkpoint file."""
    checkpoints: list[str] = field(default_factory=list)
    """Of a run folder, oldest first; the report is on the one that `last_checkpoint` names."""
    parts: list[PartReport] = field(default_factory=list)
    pictures: dict[str, Any] = field(default_factory=dict)
    """{select_layer, select_strategy, pad_to_square}."""
    template: dict[str, Any] = field(default_factory=dict)
    """{name, sha256, stop_words}."""
    data: dict[str, Any] = field(default_factory=dict)
    """{path, sha256, num_samples, check}."""
    parents: list[dict[str, Any]] = field(default_factory=list)
    """From the last stage back to the first, each with its check."""
    versions: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Package: version recorded, version installed (empty where it is not)."""
    forced: list[str] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    """Of a model folder: {benchmark, what, score, folder} of the results that lie beside it."""
    files: Files | None = None
    problems: list[str] = field(default_factory=list)
    """What is damaged or disagrees; without any, all is well."""


def origins(said: Mapping[str, Any], beside: list[Path], verify: bool) -> dict[str, Any]:
    """Data, parents, versions and what was forced, as a checkpoint's meta or a manifest says them.

    That data were added to, or an earlier checkpoint was written over, takes nothing from the weights: it is told, but
    it is no problem.
    """
    data = inner(said.get("data"))
    if isinstance(sets := data.pop("sets", None), list):  # a mixture
        data["sets"] = [
            {**inner(one), "check": check_file(*_named(inner(one), "path"), beside, verify)} for one in sets
        ]
    parents = [{**inner(entry), "stage": inner(inner(entry).get("stage"))} for entry in said.get("parents") or ()]
    return {
        "data": {**data, "check": check_file(*_named(data, "path"), beside, verify)} if data.get("path") else data,
        "parents": [{**p, "check": check_file(*_named(p, "checkpoint"), beside, verify)} for p in parents],
        "versions": {str(name): (str(was), _installed(name)) for name, was in inner(said.get("versions")).items()},
        "forced": [str(text) for text in said.get("forced") or ()],
    }


def _named(entry: Mapping[str, Any], key: str) -> tuple[str, str]:
    return str(entry.get(key) or ""), str(entry.get("sha256") or "")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def differing_parts(parts: Iterable[PartReport]) -> list[str]:
    """Bases that are not those of the training, and sub-folders that are gone."""
    found = []
    for part in parts:
        if part.base_check is not None and part.base_check.status == "differs":
            found.append(f"{part.name}: {part.base}: {part.base_check.told()}")
        if part.held_check is not None and part.held_check.status == "not found here":
            found.append(f"{part.name}: {part.held} is missing")
    return found


def file_problems(folder: Path, files: Files, verify: bool) -> list[str]:
    """Files that are not as the manifest recorded them, are missing or cannot be read."""
    damaged = damaged_files(listed_files(folder), verify)
    changed = []
    for name, (recorded, found) in files.differing.items():
        reason = damaged.pop(folder / name, None)
        also = f"; damaged: {reason}" if reason else ""
        changed.append(f"{name}: recorded {recorded[:SHORT]}, here {found[:SHORT]}{also}")
    return [*changed, *(f"{name}: recorded, but missing" for name in files.missing), *told(damaged, folder)]


def damage(folder: Path, verify: bool) -> list[str]:
    """Weights below a folder that cannot be read."""
    return told(damaged_files(listed_files(folder), verify), folder)


def told(damaged: Mapping[Path, str], folder: Path) -> list[str]:
    """One line per damaged file; one that is itself what was asked about is not named again."""
    names = {file: "" if file == folder else f"{file.relative_to(folder).as_posix()}: " for file in damaged}
    return [f"{names[file]}damaged: {reason}" for file, reason in damaged.items()]


def merged_adapters(entry: Part | PartManifest) -> list[str]:
    """The adapters inside the weights."""
    return [f"{merged.sha256[:SHORT]} {merged.source}".strip() for merged in entry.merged]


def about_part(folder: Path) -> str:
    """`LlamaForCausalLM, 32 layers, width 4096, bfloat16`, as far as config.json says."""
    config = read_json_object(folder / "config.json")
    section = inner(config.get("vision_config")) or inner(config.get("text_config")) or config
    named = [str(name) for name in config.get("architectures") or [config.get("model_type")]]
    layers, width = section.get("num_hidden_layers"), section.get("hidden_size")
    dtype = config.get("dtype") or config.get("torch_dtype")
    sizes = [f"{layers} layers"] if layers else []
    sizes += [f"width {width}"] if width else []
    return ", ".join([*named, *sizes, *([str(dtype)] if dtype else [])])


def inner(value: Any) -> dict[str, Any]:
    """`value` if it is a dictionary, else an empty one: what is inspected may come from anywhere."""
    return dict(value) if isinstance(value, Mapping) else {}


def listed(names: Any) -> str:
    """`q_proj, v_proj`; a pattern stands as it is."""
    return ", ".join(sorted(map(str, names))) if isinstance(names, list | tuple | set) else str(names)
