"""`vlmtool train CONFIG --dry-run`: what would go wrong, in one table."""

import shlex
from collections.abc import Sequence
from pathlib import Path


def dry_run(
    config: str,
    overrides: Sequence[str],
    work_dir: Path | None = None,
    deep: bool = False,
    num_processes: int = 1,
    resume: bool = False,
    resume_from: Path | None = None,
    force: bool = False,
    steps: int | None = None,
) -> bool:
    """Print the table; True where the training could run. The options are those of `train`."""
    from vlmtool.data.check_report import DEFECTS
    from vlmtool.engine.preflight import preflight
    from vlmtool.engine.trial import trial_rows
    from vlmtool.recipe.catalog import default_work_dir
    from vlmtool.recipe.load import load_recipe
    from vlmtool.utils.checklist import checklist_table, counted
    from vlmtool.utils.terminal import clean, err, out

    recipe = load_recipe(config, overrides)
    folder = work_dir or default_work_dir(config)
    report = preflight(recipe, Path(config).stem, folder, deep, num_processes, resume, resume_from, force)
    if steps is not None and not report.count("error"):
        steps = min(steps, report.steps or steps)
        err().print(f"Taking {counted(steps, 'real step')} …")
        report.rows += trial_rows(config, overrides, steps, report.steps)
    console = out()
    console.print(checklist_table(report.rows), soft_wrap=False)
    errors, warnings = report.count("error"), report.count("warning")
    found = [f"{counted(errors, 'check')} failed"] if errors else []
    found += [f"{counted(warnings, 'check')} warned"] if warnings else []
    verdict = "this training would stop" if errors else "this training can run"
    console.print(f"{', '.join(found) or 'All is well'}: {verdict}.")
    if any(row.what in {defect.title for defect in DEFECTS.values()} and row.level != "ok" for row in report.rows):
        sets = [part for override in overrides for part in ("--set", override)]
        console.print(clean(f"Every place in the data: {shlex.join(['vlmtool', 'data', 'check', config, *sets])}"))
    return not errors
