"""A pipeline as tables: what is done and what will be, before; steps, losses and scores, at the end."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from vlmtool.engine.hooks.progress import LOG_FILE
from vlmtool.engine.log import read_log
from vlmtool.evaluation.report import METRICS_FILE
from vlmtool.pipeline.run import is_scored, scored_of
from vlmtool.pipeline.stages import Pipeline, Stage
from vlmtool.pipeline.standing import Ends, Standing, is_made_of
from vlmtool.utils.files import read_json
from vlmtool.utils.terminal import clean


def plan_table(pipeline: Pipeline, standings: Sequence[Standing], ends: Ends) -> Table:
    """Each step with its folder, and how far it is."""
    table = _table("step", "state", "folder")
    for one in standings:
        _add(table, f"{one.stage.number}. {one.stage.name}", _state(one), str(one.stage.folder))
    for row in _after(pipeline, standings[-1], ends):
        _add(table, *row)
    return table


def _state(one: Standing) -> str:
    if one.trained is None:
        return "to be trained"
    if one.stale:
        return "to be trained again: " + one.stale
    return f"done: {one.trained.path.name}" if one.is_finished else f"goes on from {one.trained.path.name}"


def _after(pipeline: Pipeline, last: Standing, ends: Ends) -> Iterator[tuple[str, str, str]]:
    """What is made of the last stage."""
    end = last.trained if last.is_finished else None
    folders = {"convert": pipeline.model_folder, **({"merge": pipeline.result} if pipeline.merges else {})}
    for title, folder in folders.items():
        yield title, "done" if end is not None and is_made_of(folder, end.sha256) else "to be written", str(folder)
    for evaluation in pipeline.evaluations:
        done = end is not None and is_scored(pipeline, evaluation, scored_of(evaluation, end), ends)
        yield f"eval {evaluation.benchmark}", "done" if done else "to be scored", str(pipeline.scores(evaluation))


def end_table(pipeline: Pipeline, standings: Sequence[Standing]) -> Table:
    """Steps, folder and last loss of each stage; the scores stand with the last one, whose weights they are of."""
    table = _table("stage", "steps", "last loss", "score", "folder")
    for one in standings:
        is_last = one.stage is pipeline.last
        score = "\n".join(_score(pipeline)) if is_last else ""
        step, loss = _last_step(one.stage)
        _add(table, one.stage.name, step, loss, score, str(one.stage.folder))
    return table


def _last_step(stage: Stage) -> tuple[str, str]:
    """Number and loss of the last step; a step that was replayed has a later row."""
    rows: dict[int, dict[str, Any]] = {row["step"]: row for row in read_log(stage.folder / LOG_FILE) if "step" in row}
    if not rows:
        return "–", "–"
    step = max(rows)
    loss = rows[step].get("loss")
    return f"{step:,}", "–" if loss is None else f"{loss:.4f}"


def _score(pipeline: Pipeline) -> Iterator[str]:
    for evaluation in pipeline.evaluations:
        metrics: dict[str, Any] = read_json(pipeline.scores(evaluation) / METRICS_FILE)
        what, value = metrics.get("headline") or ("no answers in the data", None)
        yield f"{evaluation.name}, {what}" + ("" if value is None else f": {value:.1f}")


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(Text(clean(cell)) for cell in cells))
