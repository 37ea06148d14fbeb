"""What a file or folder is, what it is made of, where it comes from, and whether all of that is still there."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vlmtool.convert.disk import Check, Files, check_files, check_part, damaged_files, hashes_here, part_here
from vlmtool.convert.report import (
    PartReport,
    Report,
    about_part,
    damage,
    differing_parts,
    file_problems,
    inner,
    listed,
    merged_adapters,
    origins,
    told,
)
from vlmtool.models.damage import missing_shards
from vlmtool.models.fingerprint import Identity, weight_files
from vlmtool.models.lineage import describe_lora, describe_projector, read_projector_config, stage_of, text_hash
from vlmtool.models.manifest import (
    FILE_NAME,
    Manifest,
    Part,
    PartManifest,
    owner_of_adapter,
    read_manifest,
    read_part_manifest,
    template_text,
)
from vlmtool.utils.errors import CheckpointError, UsageError
from vlmtool.utils.files import read_json_object

LOOKED_FOR = (
    "Looked for: iter_N.pth, a run folder (last_checkpoint), vlmtool.json, adapter_config.json, a part's config.json."
)
_NUMBERED = re.compile(r"(?:iter|epoch)_(\d+)\.pth")


def inspect_path(path: Path, verify: bool = False) -> Report:
    """Find out what lies at `path`, and compare what it records with what is on this machine.

    Args:
        verify: read and hash every file anew; else hashes are remembered, and files that are large and were never
            hashed here are not read.

    Raises:
        UsageError: nothing is there, or nothing that vlmtool knows.
        CheckpointError: what says what it is cannot be read.
    """
    try:
        return _inspect(path.parent if path.name == FILE_NAME else path, verify)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CheckpointError(f"{error.filename or path}: cannot be read: {reason}.\nMay you read it?") from error


def _inspect(path: Path, verify: bool) -> Report:
    if path.is_file():
        if path.suffix != ".pth":
            raise UsageError(f"PATH: '{path}' is no checkpoint (.pth).\n{LOOKED_FOR}")
        return _checkpoint(path, path, verify)
    if not path.is_dir():
        raise UsageError(f"PATH: there is no file or folder '{path}'.\nCheck the path; a hub id must be downloaded.")
    if (manifest := read_manifest(path)) is not None:
        return _model_folder(path, manifest, verify)
    if (part_manifest := read_part_manifest(path)) is not None:
        return _merged_part(path, part_manifest, verify)
    if (path / "adapter_config.json").is_file():
        return _adapter(path, verify)
    if (path / "config.json").is_file():
        return _plain_part(path, verify)
    return _run_folder(path, verify)


def _checkpoint(path: Path, root: Path, verify: bool) -> Report:
    from vlmtool.models.checkpoint import read_checkpoint  # imports torch, which folders are told without

    checkpoint = read_checkpoint(path, "PATH")
    meta, recipe = checkpoint.meta, inner(checkpoint.meta.get("recipe"))
    stage, adapters = stage_of(recipe), inner(meta.get("adapters"))
    parts = []
    for name, origin in ((name, inner(origin)) for name, origin in inner(meta.get("parts")).items()):
        identity = Identity(str(origin.get("sha256", "")), str(origin.get("config_sha256", "")))
        check = check_part(str(origin.get("path")), identity, [], verify)
        modules = inner(adapters.get(name)).get("target_modules") or []
        parts.append(PartReport(name, stage.get(name, ""), listed(modules), str(origin.get("path")), check))
    projector = inner(meta.get("projector"))
    parts.append(PartReport("projector", stage.get("projector", ""), describe_projector(projector)))
    template, encoder = inner(meta.get("template")), inner(recipe.get("vision_encoder"))
    read_as = {
        "select_layer": encoder.get("select_layer", -2),
        "select_strategy": encoder.get("select_strategy", "auto"),
        "pad_to_square": inner(recipe.get("data")).get("pad_to_square", False),
    }
    return Report(
        path=str(path),
        kind="checkpoint",
        recipe=str(meta.get("name") or ""),
        step=meta.get("step"),
        epoch=meta.get("epoch"),
        sha256=hashes_here([path], verify).get(path, ""),
        parts=parts,
        pictures=read_as | inner(meta.get("pictures")),
        template={
            "name": template.get("name"),
            "sha256": text_hash(str(template.get("jinja", ""))),
            "stop_words": list(template.get("stop_words") or ()),
        },
        **origins(meta, [], verify),
        problems=[*differing_parts(parts), *told(damaged_files([path], verify), root)],
    )


def _model_folder(path: Path, manifest: Manifest, verify: bool) -> Report:
    files = check_files(path, manifest.files, verify)
    stage = stage_of(manifest.recipe)
    parts = [
        _part_of_folder(path, name, entry, stage.get(name, ""), files, manifest, verify)
        for name, entry in (("llm", manifest.llm), ("vision_encoder", manifest.vision_encoder))
    ]
    config = manifest.projector_config or read_projector_config(path / manifest.projector)
    inside = f"{manifest.projector}/"
    held = _held(path, inside, files, manifest.files, verify)
    how = stage.get("projector", "")
    parts.append(PartReport("projector", how, describe_projector(config), held=inside, held_check=held))
    newest = manifest.parents[0] if manifest.parents else {}
    encoder = manifest.vision_encoder
    return Report(
        path=str(path),
        kind="model folder",
        recipe=str(newest.get("name") or ""),
        step=newest.get("step"),
        epoch=newest.get("epoch"),
        parts=parts,
        pictures={
            "select_layer": encoder.select_layer,
            "select_strategy": encoder.select_strategy,
            "pad_to_square": manifest.pad_to_square,
        },
        template={
            "name": manifest.template.name,
            "sha256": manifest.template.sha256 or text_hash(template_text(path)),
            "stop_words": list(manifest.template.stop_words),
        },
        **origins(manifest.model_dump(), [path], verify),
        files=files,
        problems=[*differing_parts(parts), *file_problems(path, files, verify)],
    )


def _part_of_folder(
    path: Path, name: str, entry: Part, trained: str, files: Files, manifest: Manifest, verify: bool
) -> PartReport:
    """An LLM or encoder of a model folder. One that lies there whole needs its base no more."""
    sub_folder = entry.weights or entry.adapter or ""
    check = None if entry.weights else check_part(entry.base, entry.identity, [path], verify)
    report = PartReport(name, trained, "", entry.base, check, merged=merged_adapters(entry))
    if not sub_folder:
        return report
    inside = f"{sub_folder}/"
    return replace(report, held=inside, held_check=_held(path, inside, files, manifest.files, verify))


def _held(path: Path, inside: str, files: Files, recorded: Mapping[str, str], verify: bool) -> Check:
    """The folder itself (`inside` is empty) or a sub-folder of it ("llm/") against the hashes of its files."""
    folder = path / inside
    if not folder.is_dir():
        return Check("not found here")
    here = part_here(folder, verify).weights
    ours = {name: value for name, value in recorded.items() if name.startswith(inside)}
    for name, value in ours.items():
        if name in files.differing or name in files.missing:
            _, found = files.differing.get(name, ("", ""))
            return Check("differs", value, found, name.removeprefix(inside))
    if not ours:
        return Check("not recorded", "", here)
    return Check("agrees" if here else "not read", here, here)


def _merged_part(path: Path, manifest: PartManifest, verify: bool) -> Report:
    files = check_files(path, manifest.files, verify)
    held = _held(path, "", files, manifest.files, verify)
    base_check = check_part(manifest.base, manifest.identity, [path], verify)
    part = PartReport(
        manifest.part, "adapter merged", about_part(path), manifest.base, base_check, "./", held,
        merged_adapters(manifest),
    )  # fmt: skip
    # The merged weights stand alone: that their base is gone or has changed takes nothing from them.
    return Report(
        path=str(path),
        kind="merged part",
        parts=[part],
        forced=list(manifest.forced),
        files=files,
        problems=file_problems(path, files, verify),
    )


def _adapter(path: Path, verify: bool) -> Report:
    settings = read_json_object(path / "adapter_config.json")
    modules = settings.get("target_modules") or []
    kind = str(settings.get("peft_type"))
    how = describe_lora(settings.get("r"), settings.get("lora_alpha")) if kind == "LORA" else kind
    base = str(settings.get("base_model_name_or_path") or "")
    owner = owner_of_adapter(path)
    if owner is None:
        check = check_part(base, Identity(""), [path], verify) if base else None
        held = Check("not recorded", "", part_here(path, verify).weights)
        part = PartReport("adapter", how, listed(modules), base, check, "./", held)
        return Report(str(path), "peft adapter", parts=[part], problems=damage(path, verify))
    name, entry, manifest = owner
    root = path.resolve().parent
    inside = f"{entry.adapter}/"
    recorded = {file.removeprefix(inside): v for file, v in manifest.files.items() if file.startswith(inside)}
    files = check_files(path, recorded, verify)
    check = check_part(entry.base, entry.identity, [root], verify)
    part = PartReport(
        name, how, listed(modules), entry.base, check, "./", _held(path, "", files, recorded, verify)
    )  # fmt: skip
    return Report(
        path=str(path),
        kind="peft adapter",
        detail=f"of the model folder {root}",
        parts=[part],
        files=files,
        forced=list(manifest.forced),
        problems=[*differing_parts([part]), *file_problems(path, files, verify)],
    )


def _plain_part(path: Path, verify: bool) -> Report:
    config = read_json_object(path / "config.json")
    weights = part_here(path, verify).weights
    problems = damage(path, verify)
    problems += [f"{shard}: named in {index}, but missing" for shard, index in missing_shards(path).items()]
    if not weight_files(path):
        problems.append("it holds no weights (*.safetensors, *.bin)")
    held = Check("not recorded", "", weights)
    if "model_type" in config:
        part = PartReport("part", "", about_part(path), held="./", held_check=held)
        return Report(str(path), "Hugging Face part", parts=[part], problems=problems)
    if "llm_hidden_size" in config:
        about = describe_projector(read_projector_config(path))
        part = PartReport("projector", "", about, held="./", held_check=held)
        return Report(str(path), "projector", parts=[part], problems=problems)
    raise UsageError(f"PATH: '{path}' is nothing that vlmtool knows: its config.json has no model_type.\n{LOOKED_FOR}")


def _run_folder(path: Path, verify: bool) -> Report:
    from vlmtool.models.checkpoint import LAST_CHECKPOINT, last_checkpoint

    saved = sorted((f for f in path.glob("*.pth") if _NUMBERED.fullmatch(f.name)), key=lambda f: f.stat().st_mtime)
    newest = last_checkpoint(path)
    if newest is None and not saved:
        if (path / "recipe.py").is_file():
            raise UsageError(f"PATH: the run folder '{path}' holds no checkpoint yet.\nLet it save one first.")
        raise UsageError(f"PATH: '{path}' is nothing that vlmtool knows.\n{LOOKED_FOR}")
    if newest is not None and not newest.is_file():
        raise CheckpointError(
            f"{path / LAST_CHECKPOINT}: names {newest.name}, which is not there.\n"
            f"Found: {', '.join(f.name for f in saved) or 'no checkpoint'}. Inspect one of them, or restore it."
        )
    shown = newest or saved[-1]
    report = _checkpoint(shown, path, verify)
    others = damaged_files([file for file in saved if file != shown], verify)
    return replace(
        report,
        path=str(path),
        kind="run folder",
        detail=f"at its checkpoint {shown.name}",
        checkpoints=[file.name for file in saved],
        problems=[*report.problems, *told(others, path)],
    )
