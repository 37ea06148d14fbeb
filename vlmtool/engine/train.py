"""`vlmtool train` without the command line: prepare, tell, run."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from vlmtool.data.dataset import ScanReport
from vlmtool.engine.build import Prepared, build_runner
from vlmtool.engine.trainable import PartSummary
from vlmtool.models.checkpoint import last_checkpoint
from vlmtool.recipe.load import load_recipe, recipe_text
from vlmtool.utils.distributed import is_main
from vlmtool.utils.files import check_writable, write_text
from vlmtool.utils.terminal import clean, err

RECIPE_FILE = "recipe.py"  # the recipe as run, in the work dir


def train(
    config: str,
    overrides: Sequence[str] = (),
    work_dir: Path | None = None,
    resume: bool = False,
    resume_from: Path | None = None,
    launcher: str = "none",
) -> Path:
    """Train a recipe; returns the last checkpoint.

    Args:
        config: name or file of the recipe.
        work_dir: `./work_dirs/<config>` unless given.
        resume: go on from the work dir's last checkpoint; starts anew where there is none.
        resume_from: go on from this checkpoint.
    """
    recipe = load_recipe(config, overrides)
    name = Path(config).stem
    folder = work_dir or Path("work_dirs") / name
    start = resume_from or (last_checkpoint(folder) if resume else None)
    check_writable(folder, "--work-dir")
    prepared = build_runner(recipe, name, folder, launcher, start)
    if is_main():
        write_text(folder / RECIPE_FILE, recipe_text(recipe, f"{name}, as trained in {folder}."))
        _tell(prepared, start, resume)
    try:
        prepared.runner.train()
    except KeyboardInterrupt:
        if is_main():
            _tell_interrupted(folder)
        raise
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        raise AssertionError("the last step always saves")
    if is_main():
        err().print(
            f"Saved {checkpoint}\nNext: vlmtool convert pth_to_hf {folder / RECIPE_FILE} {checkpoint} {folder / 'hf'}"
        )
    return checkpoint


def _tell(prepared: Prepared, start: Path | None, resume: bool) -> None:
    console = err()
    console.print(_parts_table(prepared.parts))
    for line in _scan_lines(prepared.scan):
        console.print(clean(line), markup=False)
    if prepared.loaded:
        console.print(f"{len(prepared.loaded)} tensors taken from the stage before.")
    if start is not None:
        console.print(f"Going on from {start}.")
    elif resume:
        console.print("Nothing to resume yet: starting anew.")
    console.print(f"{prepared.steps} optimiser steps.")


def _tell_interrupted(folder: Path) -> None:
    newest = last_checkpoint(folder)
    saved = (
        f"{newest} is the newest checkpoint: the same command with --resume goes on from it."
        if newest
        else "Nothing was saved yet; schedule.save_every says how often."
    )
    err().print(f"Interrupted. {saved}", markup=False)


def _parts_table(parts: Sequence[PartSummary]) -> Table:
    table = Table("part", "tuning", "trained", "parameters", "peak lr", box=None, pad_edge=False)
    for part in parts:
        rate = f"{part.lr:g}" if part.trained else "-"
        table.add_row(part.name, part.tuning, f"{part.trained:,}", f"{part.total:,}", rate)
    return table


def _scan_lines(scan: ScanReport) -> list[str]:
    share = 100 * scan.num_supervised / scan.num_tokens
    lines = [
        f"{scan.num_samples:,} samples, {scan.num_images:,} images, {scan.num_tokens:,} tokens, "
        f"{share:.1f} % of them supervised."
    ]
    for ids, what in (
        (scan.cut_answers, "longer than data.max_length: their last answer is cut"),
        (scan.unsupervised, "without a supervised token: skipped"),
    ):
        if ids:
            more = ", …" if len(ids) > 5 else ""
            lines.append(f"{len(ids):,} samples {what} ({', '.join(ids[:5])}{more}).")
    return lines
