"""What a training will start from, the stage before or its own checkpoint, for `vlmtool train CONFIG --dry-run`."""

from pathlib import Path
from typing import Any

from vlmtool.data.sampler import StepPlan
from vlmtool.engine.init_from import find_source, start_stage
from vlmtool.engine.meta import data_origin, part_origins
from vlmtool.engine.planned import PlannedParts
from vlmtool.engine.preflight_report import PreflightReport
from vlmtool.engine.setups import setup_of_run
from vlmtool.engine.state import check_state, plan_values
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.models.lineage import Guard
from vlmtool.recipe.load import recipe_values
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.checklist import Row, counted


def check_start(
    report: PreflightReport,
    recipe: Recipe,
    parts: PlannedParts,
    resume_from: Path | None,
    force: bool,
    plan: StepPlan,
    is_counted: bool,
) -> None:
    """The weights to start from are there, were trained on these parts, and have the shapes of this model.

    Where a run goes on, so do its steps: with the state beside the checkpoint, from the same samples.

    Args:
        plan: of the run, without lengths.
        is_counted: its number of samples is the one that the run will have.
    """
    if resume_from is not None:
        what, source = "resume", None
    elif recipe.init_from is not None:
        what, source = "init_from", report.attempt("init_from", find_source, recipe.init_from)
    else:
        return
    model, template = parts.model(), parts.template
    if model is None or template is None or (source is None and resume_from is None):
        return
    setup = setup_of_run(recipe, part_origins(recipe, parts.folders), template, model)
    start = report.attempt(what, start_stage, model, setup, source, resume_from, force)
    if start is None:
        return
    if resume_from is None:
        report.rows.append(Row("ok", what, f"{counted(len(start.loaded), 'tensor')} of '{source}' fit"))
        left = start.imported.left if start.imported is not None else {}
        report.rows += [Row("ok", what, f"{counted(len(n), 'tensor')} not taken: {why}") for why, n in left.items()]
        return
    meta, now = read_checkpoint(resume_from).meta, report.attempt(what, _known_values, recipe, plan, is_counted)
    if now is None:
        return
    if report.attempt(what, check_state, resume_from, meta, recipe_values(recipe), now, Guard(force)) is not None:
        report.rows.append(Row("ok", what, f"step {meta['step']:,}: '{resume_from}' fits"))


def _known_values(recipe: Recipe, plan: StepPlan, is_counted: bool) -> dict[str, Any]:
    """Of what the run will compare with its checkpoint, what is known before it starts."""
    if not all(Path(given.path).is_file() for given in recipe.training_sets):
        return {}  # said elsewhere
    values = plan_values(plan, data_origin(recipe, [share.num_samples for share in plan.shares])["sha256"])
    unknown = {"lengths"} if is_counted else {"lengths", "num_samples"}
    return {key: value for key, value in values.items() if key not in unknown}
