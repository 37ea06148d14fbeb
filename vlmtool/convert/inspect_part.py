"""What a single part is: merged, an adapter, or as Hugging Face writes it."""

from pathlib import Path

from vlmtool.convert.disk import Check, check_files, check_held, check_part, part_here
from vlmtool.convert.report import (
    LOOKED_FOR,
    PartReport,
    Report,
    about_part,
    damage,
    differing_parts,
    file_problems,
    listed,
    merged_adapters,
)
from vlmtool.models.damage import missing_shards
from vlmtool.models.fingerprint import Identity, weight_files
from vlmtool.models.lineage import describe_lora, describe_prefix, describe_projector, read_projector_config
from vlmtool.models.manifest import PartManifest, owner_of_adapter
from vlmtool.models.parts import PREFIX_TUNING
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import read_json_object


def merged_part_report(path: Path, manifest: PartManifest, verify: bool) -> Report:
    """Of a single part that vlmtool wrote."""
    files = check_files(path, manifest.files, verify)
    held = check_held(path, "", files, manifest.files, verify)
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


def adapter_report(path: Path, verify: bool) -> Report:
    """Of a peft adapter, by itself or inside a model folder of vlmtool's."""
    settings = read_json_object(path / "adapter_config.json")
    modules = settings.get("target_modules") or []
    how = str(settings.get("peft_type"))
    if how == "LORA":
        kinds = bool(settings.get("use_dora")), bool(settings.get("use_rslora"))
        how = describe_lora(settings.get("r"), settings.get("lora_alpha"), *kinds)
    elif how == PREFIX_TUNING:
        how = describe_prefix(settings.get("num_virtual_tokens"))
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
        name, how, listed(modules), entry.base, check, "./", check_held(path, "", files, recorded, verify)
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


def plain_part_report(path: Path, verify: bool) -> Report:
    """Of a Hugging Face part or a projector, which vlmtool did not write a manifest for.

    Raises:
        UsageError: its config.json is of neither.
    """
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
