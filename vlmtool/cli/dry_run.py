"""`vlmtool train CONFIG --dry-run`: what would go wrong, in one table."""

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
) -> bool:
    """Print the table; True where the training could run. The options are those of `train`."""
    from vlmtool.data.check_report import DEFECTS
    from vlmtool.engine.preflight import preflight
    from vlmtool.recipe.load import load_recipe
    from vlmtool.utils.checklist import checklist_table
    from vlmtool.utils.terminal import clean, out

    recipe = load_recipe(config, overrides)
    name = Path(config).stem
    folder = work_dir or Path("work_dirs") / name
    report = preflight(recipe, name, folder, deep, num_processes, resume, resume_from, force)
    console = out()
    console.print(checklist_table(report.rows), soft_wrap=False)
    errors, warnings = report.count("error"), report.count("warning")
    found = [f"{n} {what}{'s' if n > 1 else ''}" for n, what in ((errors, "error"), (warnings, "warning")) if n]
    verdict = "this training would stop" if errors else "this training can run"
    console.print(f"{', '.join(found) or 'All is well'}: {verdict}.")
    if any(row.what in {defect.title for defect in DEFECTS.values()} and row.level != "ok" for row in report.rows):
        console.print(clean(f"Every place in the data: vlmtool data check {config}"))
    return not errors
