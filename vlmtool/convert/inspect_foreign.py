"""What another tool wrote: its kind and the parts that are found in it."""

from pathlib import Path

from vlmtool.convert.disk import damaged_files, hashes_here
from vlmtool.convert.report import PartReport, Report, told
from vlmtool.models.fingerprint import all_weight_files
from vlmtool.models.imports.kind import foreign_kind
from vlmtool.models.lineage import describe_projector
from vlmtool.models.parts import PARTS
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import CheckpointError


def foreign_report(path: Path, verify: bool) -> Report | None:
    """Of what another tool wrote; None of anything else.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        kind = foreign_kind(path)
    except CheckpointError:
        if path.suffix != ".pth":
            raise
        return None  # where it is read for a checkpoint, the error says what it should have been
    if kind is None:
        return None
    files = [path] if path.is_file() else all_weight_files(path)
    damaged = damaged_files(files, verify)
    parts = _parts(path) if not damaged else []
    return Report(
        path=str(path),
        kind=str(kind),
        detail=", ".join(f"{part.name} {part.about}" for part in parts),
        sha256=hashes_here([path], verify).get(path, "") if path.is_file() else "",
        problems=told(damaged, path),
    )


def _parts(path: Path) -> list[PartReport]:
    """Each part with the number of its weights; of the projector what it is, too."""
    from vlmtool.models.imports.fit import (  # imports torch, which own folders are told without
        by_part,
        projector_shapes,
    )
    from vlmtool.models.imports.names import Left
    from vlmtool.models.imports.projectors import ROW_END, find_projector
    from vlmtool.models.imports.read import find_foreign

    source = find_foreign(path)
    placed = list(source.placed()) if source is not None else []
    counts = by_part({name: "others" if isinstance(to, Left) else to.partition(".")[0] for name, to, _ in placed})
    shapes = projector_shapes(placed)
    reports = []
    for part in (*PARTS, "others"):
        if part not in counts:
            continue
        about = counted(len(counts[part]), "weight")
        if part == "projector" and any(name != ROW_END for name in shapes):
            found = find_projector(shapes, str(path))
            widths = {"vision_hidden_size": found.widths[0] or "?", "llm_hidden_size": found.widths[1] or "?"}
            about += f" ({describe_projector({'type': found.type, 'options': found.options, **widths})})"
        reports.append(PartReport(part, about=about))
    return reports
