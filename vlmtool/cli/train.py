"""`vlmtool train`: train a recipe."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from vlmtool.cli import options
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import no_file


def train(
    config: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a recipe file.")],
    work_dir: Annotated[Path | None, typer.Option(help="Where to write; ./work_dirs/CONFIG unless given.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; may be given several times."),
    ] = None,
    cfg_options: Annotated[list[str] | None, typer.Option(hidden=True, help="XTuner's name of --set.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of the work dir.")] = False,
    resume_from: Annotated[Path | None, typer.Option(help="Go on from this checkpoint.")] = None,
    seed: Annotated[int | None, typer.Option(help="Takes the place of runtime.seed.")] = None,
    deepspeed: options.DeepSpeed = None,
    launcher: options.Launcher = "none",
    force: Annotated[
        bool, typer.Option("--force", help="Go on where parts are mixed up but could work; it is recorded.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print what is wrong, and train nothing.")
    ] = False,
    deep: Annotated[bool, typer.Option("--deep", help="With --dry-run: decode every image whole.")] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="With --dry-run: take so many real steps, and tell their time and memory.")
    ] = None,
) -> None:
    """Train a recipe. NPROC_PER_NODE=8 in front starts eight processes."""
    if resume_from is not None and not resume_from.is_file():
        raise UsageError(f"--resume-from: {no_file(resume_from)}.\nRun folders hold iter_N.pth.")
    options.check_launcher(launcher)
    if deep and not dry_run:
        raise UsageError("--deep: belongs to --dry-run.\nAdd --dry-run, or drop --deep.")
    if steps is not None and not dry_run:
        raise UsageError("--steps: belongs to --dry-run.\nAdd --dry-run, or set schedule.max_steps.")
    overrides = [*(set_ or []), *(cfg_options or []), *options.strategy(deepspeed)]
    if seed is not None:
        overrides.append(f"runtime.seed={seed}")

    from vlmtool.engine.first_look import check_paths
    from vlmtool.engine.launch import launch_settings, run_processes
    from vlmtool.engine.ranks import join_launcher
    from vlmtool.recipe.catalog import default_work_dir
    from vlmtool.recipe.load import load_recipe

    join_launcher(launcher)
    launch = launch_settings(os.environ)
    if dry_run:
        if os.environ.get("RANK", "0") != "0" and "LOCAL_RANK" in os.environ:
            return  # one report is enough
        from vlmtool.cli.dry_run import dry_run as check

        launched = int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
        num_processes = launch.num_processes * launch.num_nodes if launch is not None else launched
        if not check(config, overrides, work_dir, deep, num_processes, resume, resume_from, force, steps):
            raise typer.Exit(1)
        return
    if "LOCAL_RANK" not in os.environ:  # told at once, and once: before torch is imported or the processes start
        check_paths(load_recipe(config, overrides), work_dir or default_work_dir(config))
    if launch is not None:
        run_processes(launch, sys.argv[1:])
        return

    from vlmtool.engine.train import train as run

    run(config, overrides, work_dir, resume, resume_from, "pytorch" if "LOCAL_RANK" in os.environ else launcher, force)
