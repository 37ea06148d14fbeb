"""Results for people and for programs: files straight into the work dir, a table on the terminal."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vlmtool.evaluation.benchmark import Benchmark, Scores
from vlmtool.evaluation.page import write_page
from vlmtool.utils.files import write_json, write_text
from vlmtool.utils.terminal import clean, clean_line, err, out

METRICS_FILE = "metrics.json"


def report(
    benchmark: Benchmark, predictions: Mapping[int, str], folder: Path, made_by: Mapping[str, Any] | None = None
) -> Scores:
    """Score the predictions; write `rows.jsonl`, `metrics.json`, the submission and `report.html`; print the table.

    Args:
        made_by: what `metrics.json` shall remember of the model and its settings.
    """
    scores = benchmark.score(predictions)
    write_text(folder / "rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scores.rows))
    submission = benchmark.write_submission(predictions, folder)
    write_page(folder / "report.html", benchmark, benchmark.cards(predictions, scores), scores.scores)
    metrics = {
        "benchmark": benchmark.name,
        "data_path": str(benchmark.data_path),
        "extractor": benchmark.extractor,
        "scores": scores.scores,
        "counts": scores.counts,
        "warnings": list(scores.warnings),
    }
    metrics |= {"splits": scores.splits} if scores.splits else {}
    metrics |= {"made_by": dict(made_by)} if made_by else {}
    write_json(folder / METRICS_FILE, metrics)  # last: where it stands, the others are complete
    _print(benchmark, scores, folder, submission)
    return scores


def _print(benchmark: Benchmark, scores: Scores, folder: Path, submission: Path) -> None:
    for warning in scores.warnings:
        err().print(f"Warning: {clean(warning)}")
    console = out()
    if scores.scores:
        for split, values in (scores.splits or {"": scores.scores}).items():
            console.print(_table(benchmark, split, values))
        if scores.splits:
            console.print(_table(benchmark, "all splits", scores.scores))
    else:
        console.print(clean(f"The data has no answers: no score. Hand in {submission}"))
    console.print(clean(f"Extractor: {benchmark.extractor}. Results: {folder}"))


def _table(benchmark: Benchmark, split: str, values: Mapping[str, Mapping[str, float]]) -> Table:
    """Scores in percent, one column per way of scoring."""
    title = f"{benchmark.name} · {benchmark.data_path.name}" + (f" · {split}" if split else "")
    # Text, not str: names of categories and files are not rich's markup, whatever brackets they hold.
    table = Table(title=Text(clean_line(title)))
    table.add_column("", overflow="fold")
    for way in values:
        table.add_column(way, justify="right")
    names = dict.fromkeys(name for scores in values.values() for name in scores)
    for name in names:
        cells = [f"{100 * scores[name]:.1f}" if name in scores else "–" for scores in values.values()]
        table.add_row(Text(clean_line(name)), *cells, end_section=name == "Overall")
    return table
