"""`vlmtool train` without the command line: prepare, tell, run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from rich.table import Table

from vlmtool.data.dataset import ScanReport
from vlmtool.engine.build import Prepared, build_runner
from vlmtool.engine.device import group_of_one_ends
from vlmtool.engine.feed import LearnedSet
from vlmtool.engine.first_look import check_paths
from vlmtool.engine.loop import SKIPPED_FILE
from vlmtool.engine.orphan import following_launcher
from vlmtool.engine.peers import losing_peers
from vlmtool.engine.preflight import start_warnings
from vlmtool.engine.run_folder import IMPORT_FILE, RECIPE_FILE, lies_in, locked, set_logs_aside, sweep
from vlmtool.engine.signals import Stopped
from vlmtool.engine.trainable import PartSummary
from vlmtool.models.checkpoint import last_checkpoint
from vlmtool.recipe.catalog import default_work_dir
from vlmtool.recipe.load import load_recipe, recipe_text
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.checklist import counted
from vlmtool.utils.distributed import is_main
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import write_text
from vlmtool.utils.terminal import clean, err


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
    folder = work_dir or default_work_dir(config)
    check_paths(recipe, folder)
    for line in start_warnings(recipe, folder):
        if is_main():
            err().print(clean(line))
    with following_launcher(), losing_peers(), group_of_one_ends(), locked(folder):
        start = resume_from or (last_checkpoint(folder) if resume else None)
        _tidy(folder, start)
        prepared = build_runner(recipe, name, folder, launcher, start, force)
        text = recipe_text(recipe, f"{name}, as trained in {folder}.")
        prepared.runner.register_hook(WriteRecipe(folder / RECIPE_FILE, text))
        if prepared.imported is not None:
            prepared.runner.register_hook(
                WriteRecipe(folder / IMPORT_FILE, json.dumps(prepared.imported.plain(), indent=2) + "\n")
            )
        if is_main():
            _tell(prepared, recipe, start, resume)
        return _run(prepared, folder)


class WriteRecipe(Hook):
    """Writes the recipe as run once the run has begun: a resume that is refused leaves the one before."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text

    def before_train(self, runner: Any) -> None:
        """All that a checkpoint may refuse has been asked by now."""
        if is_main():
            write_text(self.path, self.text)


def _tidy(folder: Path, start: Path | None) -> None:
    """Make room for a run that goes on from `start`; the main rank, which holds the lock, does it for all.

    Raises:
        UsageError: the folder holds another run.
    """
    if not is_main():
        return
    if not lies_in(folder, start) and (newest := last_checkpoint(folder)) is not None:
        raise UsageError(
            f"--work-dir {folder}: holds a run already, up to {newest.name}.\n"
            f"{'Give --resume alone' if start else 'Add --resume'} to go on with it, or give another --work-dir."
        )
    sweep(folder)
    if not lies_in(folder, start):
        set_logs_aside(folder)


def _run(prepared: Prepared, folder: Path) -> Path:
    """Train to the end; returns the last checkpoint."""
    try:
        prepared.runner.train()
    except (KeyboardInterrupt, Stopped) as stop:
        if is_main():
            _tell_interrupted(folder, "Stopped by a signal" if isinstance(stop, Stopped) else "Interrupted")
        raise
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        raise AssertionError("the last step always saves")
    if is_main() and _tell_end(prepared, folder):
        command = f"vlmtool convert pth_to_hf {folder / RECIPE_FILE} {checkpoint} {folder / 'hf'}"
        err().print(clean(f"Saved {checkpoint}\nNext: {command}"))
    return checkpoint


def _tell_end(prepared: Prepared, folder: Path) -> bool:
    """What a person should know of a run that came to its end; True where it trained anything."""
    loop = prepared.runner.train_loop
    if loop.first_step >= loop.max_iters:
        err().print(
            f"Step {loop.first_step} of {loop.max_iters} was reached before: there was nothing to train.\n"
            "To go on from there, give more: schedule.max_steps or schedule.epochs."
        )
    if loop.num_skipped:
        done = loop.iter - loop.first_step
        err().print(clean(f"{loop.num_skipped:,} of {done:,} steps were skipped; see {folder / SKIPPED_FILE}"))
    return loop.first_step < loop.max_iters


def _tell(prepared: Prepared, recipe: Recipe, start: Path | None, resume: bool) -> None:
    console = err()
    console.print(_parts_table(prepared.parts))
    for line in _set_lines(prepared.sets):
        console.print(clean(line))
    if prepared.held_out is not None:
        for line in _scan_lines(prepared.held_out):
            console.print(clean(f"Held out: {line}"))
    for line in prepared.imported.lines() if prepared.imported is not None else ():
        console.print(clean(line))
    if prepared.loaded and prepared.imported is None:
        console.print(f"{counted(len(prepared.loaded), 'tensor')} taken from the stage before.")
    if recipe.schedule.pack_to is not None:
        console.print(_packing_line(prepared.sets, recipe.schedule.pack_to))
    if prepared.features is not None:
        console.print(clean(prepared.features))
    if start is not None:
        console.print(clean(f"Going on from {start}."))
    elif resume:
        console.print("Nothing to resume yet: starting anew.")
    console.print(f"{counted(prepared.steps, 'optimiser step')}.")
    if recipe.runtime.compile:
        console.print("The first steps compile the language model's blocks, which takes half a minute or more.")


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


def _set_lines(sets: Sequence[LearnedSet]) -> list[str]:
    """What was found in the one data set; or in each of a mixture, and how much of it is in an epoch."""
    if len(sets) == 1 and sets[0].drawn == sets[0].scan.num_samples:
        return _scan_lines(sets[0].scan)
    lines = []
    for given in sets:
        first, *more = _scan_lines(given.scan)
        lines += [f"{given.path}: {line}" for line in (f"{given.drawn:,} in an epoch of {first}", *more)]
    return [*lines, f"{counted(sum(given.drawn for given in sets), 'sample')} in an epoch."]


def _packing_line(sets: Sequence[LearnedSet], pack_to: int) -> str:
    mean = sum(given.scan.num_tokens for given in sets) / sum(given.scan.num_samples for given in sets)
    return f"Packed into passes of up to {pack_to:,} tokens, about {max(1.0, pack_to / mean):.1f} samples in each."


def _scan_lines(scan: ScanReport) -> list[str]:
    share = 100 * scan.num_supervised / scan.num_tokens
    lines = [
        f"{counted(scan.num_samples, 'sample')}, {counted(scan.num_images, 'image')}, "
        f"{counted(scan.num_tokens, 'token')}, "
        f"{share:.1f} % of them supervised."
    ]
    for ids, what in (
        (scan.cut_answers, "longer than data.max_length: the last answer is cut"),
        (scan.unsupervised, "without a supervised token: skipped"),
    ):
        if ids:
            more = ", …" if len(ids) > 5 else ""
            lines.append(f"{counted(len(ids), 'sample')} {what} ({', '.join(ids[:5])}{more}).")
    return lines
