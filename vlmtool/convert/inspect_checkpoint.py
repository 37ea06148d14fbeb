"""What a checkpoint or a run folder is made of, and what of it is on this machine."""

import re
from dataclasses import replace
from pathlib import Path

from vlmtool.convert.disk import check_part, damaged_files, hashes_here
from vlmtool.convert.report import LOOKED_FOR, PartReport, Report, differing_parts, inner, listed, origins, told
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.fingerprint import Identity
from vlmtool.models.lineage import describe_projector, stage_of, text_hash
from vlmtool.models.parts import BESIDE
from vlmtool.utils.errors import CheckpointError, UsageError

_NUMBERED = re.compile(r"(?:iter|epoch)_(\d+)\.pth")


def checkpoint_report(path: Path, root: Path, verify: bool) -> Report:
    """Of a .pth; problems name files as seen from `root`.

    Raises:
        CheckpointError: it is damaged, or no checkpoint of vlmtool's.
    """
    from vlmtool.models.checkpoint import read_checkpoint  # imports torch, which folders are told without

    checkpoint = read_checkpoint(path, "PATH")
    meta, recipe = checkpoint.meta, inner(checkpoint.meta.get("recipe"))
    stage, adapters = stage_of(recipe), inner(meta.get("adapters"))
    parts = []
    for name, origin in ((name, inner(origin)) for name, origin in inner(meta.get("parts")).items()):
        identity = Identity(str(origin.get("sha256", "")), str(origin.get("config_sha256", "")))
        check = check_part(str(origin.get("path")), identity, [], verify)
        modules = inner(adapters.get(name)).get("target_modules") or []
        how = "frozen" if name == BESIDE else stage.get(name, "")
        parts.append(PartReport(name, how, listed(modules), str(origin.get("path")), check))
    projector = inner(meta.get("projector"))
    parts.append(PartReport("projector", stage.get("projector", ""), describe_projector(projector)))
    template, encoder = inner(meta.get("template")), inner(recipe.get("vision_encoder"))
    read_as = {
        **Reading.of(encoder).said(),
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


def run_folder_report(path: Path, verify: bool) -> Report:
    """Of the newest checkpoint of a run.

    Raises:
        UsageError: the folder is no run of vlmtool's.
    """
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
    report = checkpoint_report(shown, path, verify)
    others = damaged_files([file for file in saved if file != shown], verify)
    return replace(
        report,
        path=str(path),
        kind="run folder",
        detail=f"at its checkpoint {shown.name}",
        checkpoints=[file.name for file in saved],
        problems=[*report.problems, *told(others, path)],
    )
