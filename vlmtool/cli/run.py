"""`vlmtool run`: stages one after another, the last one converted and scored; resumable at any point."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmtool.cli import options
from vlmtool.utils.errors import UsageError
from vlmtool.utils.terminal import clean, err, out, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlmtool.pipeline.stages import Pipeline
    from vlmtool.pipeline.standing import Standing


def run(
    configs: Annotated[
        list[str], typer.Argument(metavar="CONFIG...", help="Recipes in the order of the stages: names or files.")
    ],
    work_dir: Annotated[
        Path | None, typer.Option(help="Holds a folder for each stage; ./work_dirs unless given.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[STAGE:]KEY=VALUE",
            help="Change a value in every stage, or in one: --set 2:schedule.lr=1e-5. STAGE is a number or a name.",
        ),
    ] = None,
    cfg_options: Annotated[list[str] | None, typer.Option(hidden=True, help="XTuner's name of --set.")] = None,
    eval_: Annotated[
        list[str] | None,
        typer.Option("--eval", metavar="BENCHMARK:FILE", help="Score the result on it; may be given again."),
    ] = None,
    deepspeed: options.DeepSpeed = None,
    repeat: Annotated[
        bool,
        typer.Option("--repeat", help="Train stages again whose recipe, or the stage before, changed; keep the old."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is done and what will be, check everything, do nothing.")
    ] = False,
) -> None:
    """Train stages one after another, each from the one before; convert, merge and score the last one.

    Killed or stopped at any moment, the same command goes on; a stage that is finished is not repeated. A stage's
    `init_from` is the last checkpoint of the stage before. NPROC_PER_NODE=8 in front trains and scores on eight GPUs.
    """
    _check_machine()
    from vlmtool.engine.launch import launch_settings
    from vlmtool.pipeline.stages import read_pipeline

    launch = launch_settings(os.environ)
    sets = [*(set_ or []), *(cfg_options or []), *options.strategy(deepspeed)]
    num_processes = launch.num_processes if launch is not None else 1
    pipeline = read_pipeline(configs, sets, work_dir, eval_ or [], num_processes)

    from vlmtool.pipeline.checks import check_pipeline, look
    from vlmtool.pipeline.overview import end_table, plan_table
    from vlmtool.pipeline.run import run_pipeline
    from vlmtool.pipeline.standing import Ends

    ends = Ends(pipeline.root)
    standings = check_pipeline(pipeline, ends, repeat)
    print_table(out() if dry_run else err(), plan_table(pipeline, standings, ends))
    if dry_run:
        if not _check_stages(standings, num_processes):
            raise typer.Exit(1)
        return
    run_pipeline(pipeline, ends, repeat)
    print_table(out(), end_table(pipeline, look(pipeline.stages, ends)))
    _print_next(pipeline)


def _check_machine() -> None:
    """The commands of the stages start their own processes, on this machine."""
    if "LOCAL_RANK" in os.environ:
        raise UsageError(
            "run: started by torchrun, but its stages start their own processes.\nGive NPROC_PER_NODE=8 vlmtool run …"
        )
    if (nodes := os.environ.get("NNODES", "1")) != "1":
        raise UsageError(
            f"run: NNODES={nodes}, but it works on one machine.\n"
            "On several, start each stage by itself: vlmtool train, then vlmtool convert."
        )


def _check_stages(standings: "Sequence[Standing]", num_processes: int) -> bool:
    """`train --dry-run` of each stage that is not done; True where all could run.

    A stage whose checkpoint to start from is not made yet is looked at without it.
    """
    from vlmtool.cli.dry_run import dry_run

    fine = True
    for number, one in enumerate(standings):
        if one.is_finished:
            continue
        overrides = list(one.stage.overrides)
        before = standings[number - 1] if number else None
        if before is not None:
            source = before.trained.path if before.is_finished and before.trained is not None else None
            overrides.append(f"init_from={str(source) if source is not None else None!r}")
        out().print(clean(f"\n{one.stage.name}"), style="bold")
        # What is stale will be set aside: the stage starts in a folder that is not there yet.
        folder = one.stage.folder if not one.stale else one.stage.folder / "again"
        fine &= dry_run(one.stage.config, overrides, folder, num_processes=num_processes, resume=True)
    return fine


def _print_next(pipeline: "Pipeline") -> None:
    result = str(pipeline.result)
    print("Next:")
    for command in (["inspect", result], ["chat", result, "--image", "PICTURE.jpg"]):
        print(clean(f"  {shlex.join(['vlmtool', *command])}"))
