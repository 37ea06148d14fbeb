"""`vlmtool train` without the command line: prepare, tell, run."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from vlmtool.data.dataset import ScanReport
from vlmtool.engine.build import Prepared, build_runner
from vlmtool.engine.preflight import start_warnings
from vlmtool.engine.saving import sweep
from vlmtool.engine.signals import Stopped
from vlmtool.engine.trainable import PartSummary
from vlmtool.models.checkpoint import last_checkpoint
from vlmtool.recipe.load import load_recipe, recipe_text
from vlmtool.utils.distributed import is_main
from vlmtool.utils.errors import UsageError
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
    force: bool = False,
) -> Path:
    """Train a recipe; returns the last checkpoint.

    Args:
        config: name or file of the recipe.
        work_dir: `./work_dirs/<config>` unless given.
        resume: go on from the work dir's last checkpoint; starts anew where there is none.
        resume_from: go on from this checkpoint.
        force: go on where the weights to start from could work but do not belong here; it is recorded.
    """
    recipe = load_recipe(config, overrides)
    name = Path(config).stem
    folder = work_dir or Path("work_dirs") / name
    start = resume_from or (last_checkpoint(folder) if resume else None)
    check_writable(folder, "--work-dir")
    if start is None:
        _refuse_overwriting(folder, resume)
    for line in start_warnings(recipe, folder):
        if is_main():
            err().print(clean(line))
    prepared = build_runner(recipe, name, folder, launcher, start, force)
    if is_main():
        sweep(folder)
        write_text(folder / RECIPE_FILE, recipe_text(recipe, f"{name}, as trained in {folder}."))
        _tell(prepared, start, resume)
    try:
        prepared.runner.train()
    except (KeyboardInterrupt, Stopped) as stop:
        if is_main():
            _tell_interrupted(folder, "Stopped by a signal" if isinstance(stop, Stopped) else "Interrupted")
        raise
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        raise AssertionError("the last step always saves")
    if is_main():
        command = f"vlmtool convert pth_to_hf {folder / RECIPE_FILE} {checkpoint} {folder / 'hf'}"
        err().print(clean(f"Saved {checkpoint}\nNext: {command}"))
    return checkpoint


def _refuse_overwriting(folder: Path, resume: bool) -> None:
    """A run that starts anew would mix its files with those of a run before, and delete that one's checkpoints."""
    if not resume and (newest := last_checkpoint(folder)) is not None:
        raise UsageError(
            f"--work-dir {folder}: holds a run already, up to {newest.name}.\n"
            "Add --resume to go on with it, or give another --work-dir."
        )


def _tell(prepared: Prepared, start: Path | None, resume: bool) -> None:
    console = err()
    console.print(_parts_table(prepared.parts))
    for line in _scan_lines(prepared.scan):
        console.print(clean(line))
    if prepared.loaded:
        console.print(f"{len(prepared.loaded)} tensors taken from the stage before.")
    if start is not None:
        console.print(clean(f"Going on from {start}."))
    elif resume:
        console.print("Nothing to resume yet: starting anew.")
    console.print(f"{prepared.steps} optimiser steps.")


def _tell_interrupted(folder: Path, what: str) -> None:
    newest = last_checkpoint(folder)
    saved = (
        f"{newest} is the newest checkpoint: the same command with --resume goes on from it."
        if newest
        else "Nothing was saved yet; schedule.save_every says how often."
    )
    err().print(clean(f"{what}. {saved}"))


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
