"""What a model folder is made of, and what of it is on this machine."""

from dataclasses import replace
from pathlib import Path

from vlmtool.convert.disk import Files, check_files, check_held, check_part
from vlmtool.convert.report import PartReport, Report, differing_parts, file_problems, merged_adapters, origins
from vlmtool.convert.scores import scores_beside
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.lineage import describe_projector, read_projector_config, stage_of, text_hash
from vlmtool.models.manifest import Export, Manifest, Part, template_text
from vlmtool.models.parts import BESIDE


def model_folder_report(path: Path, manifest: Manifest, verify: bool) -> Report:
    """Of a whole model, in vlmtool's or another tool's layout: parts, whether they still agree, and stages before."""
    inside, layout = (manifest.inside, manifest.layout) if isinstance(manifest, Export) else ((), "")
    files = check_files(path, manifest.files, verify)
    stage = stage_of(manifest.recipe)
    parts = [
        PartReport(name, stage.get(name, ""), base=entry.base)
        if name in inside
        else _part_of_folder(path, name, entry, stage.get(name, ""), files, manifest, verify)
        for name, entry in (("llm", manifest.llm), ("vision_encoder", manifest.vision_encoder))
    ]
    if (beside := manifest.vision_encoder.beside) is not None:
        check = check_part(beside.base, beside.identity, [path], verify)
        parts.append(PartReport(BESIDE, "frozen", base=beside.base, base_check=check))
    how = stage.get("projector", "")
    if "projector" in inside:
        parts.append(PartReport("projector", how, describe_projector(manifest.projector_config)))
    else:
        config = manifest.projector_config or read_projector_config(path / manifest.projector)
        held = f"{manifest.projector}/"
        check = check_held(path, held, files, manifest.files, verify)
        parts.append(PartReport("projector", how, describe_projector(config), held=held, held_check=check))
    newest = manifest.parents[0] if manifest.parents else {}
    encoder = manifest.vision_encoder
    return Report(
        path=str(path),
        kind="model folder",
        detail=f"in the {layout} format" if layout else "",
        recipe=str(newest.get("name") or ""),
        step=newest.get("step"),
        epoch=newest.get("epoch"),
        parts=parts,
        pictures={
            **Reading.of(encoder).said(),
            "pad_to_square": manifest.pad_to_square,
        },
        template={
            "name": manifest.template.name,
            "sha256": manifest.template.sha256 or text_hash(template_text(path)),
            "stop_words": list(manifest.template.stop_words),
        },
        **origins(manifest.model_dump(), [path], verify),
        scores=scores_beside(path),
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
    return replace(report, held=inside, held_check=check_held(path, inside, files, manifest.files, verify))
