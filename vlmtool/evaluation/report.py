"""Results for people and for programs: files straight into the work dir, a table on the terminal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vlmtool.evaluation.benchmark import Benchmark, Scores, as_columns, name_some
from vlmtool.evaluation.page import write_page
from vlmtool.utils.checklist import counted
from vlmtool.utils.files import write_json, write_text
from vlmtool.utils.terminal import clean, clean_line, err, out

METRICS_FILE = "metrics.json"
UNREADABLE_SHARE = 0.1  # of the answers; more of them say that model and rule do not fit


def report(
    benchmark: Benchmark,
    predictions: Mapping[int, str],
    folder: Path,
    made_by: Mapping[str, Any] | None = None,
    unknown: Sequence[str] = (),
) -> Scores:
    """Score the predictions; write `rows.jsonl`, `metrics.json`, the submission and `report.html`; print the table.

    Args:
        made_by: what `metrics.json` shall remember of the model and its settings.
        unknown: places of given predictions that no sample of the benchmark belongs to.
    """
    missing = [str(sample.index) for sample in benchmark.samples() if sample.index not in predictions]
    scores = benchmark.score(predictions)
    counts = {"predictions_missing": len(missing), "predictions_unknown": len(unknown)}
    warnings = list(scores.warnings)
    if missing:
        warnings.append(f"{counted(len(missing), 'row')} without a prediction, counted as wrong: {name_some(missing)}")
    if unknown:
        warnings.append(
            f"{counted(len(unknown), 'prediction')} for rows that the data does not have: {name_some(unknown)}"
        )
    unreadable = scores.counts.get("answers_unreadable", 0)
    if unreadable > UNREADABLE_SHARE * len(predictions):
        what = f"{unreadable} of {counted(len(predictions), 'answer')} could not be read"
        warnings.append(f"{what}; the rule is {_rule(benchmark)}")
    scores = replace(scores, counts={**scores.counts, **counts}, warnings=warnings)
    write_text(folder / "rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scores.rows))
    submission = benchmark.write_submission(predictions, folder)
    write_page(folder / "report.html", benchmark, benchmark.cards(predictions, scores), scores.scores)
    metrics = {
        "benchmark": benchmark.name,
        "data_path": str(benchmark.data_path),
        "extractor": benchmark.extractor,
        "scores": scores.scores,
        "headline": list(scores.headline) if scores.headline else None,
        "counts": scores.counts,
        "warnings": warnings,
        **scores.extra,
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
        if extractors := scores.extra.get("extractors"):
            console.print(_table(benchmark, "by extractor", _overall(extractors)))
    else:
        console.print(clean(f"The data has no answers: no score. Hand in {submission}"))
    if scores.headline:
        console.print(clean(f"{scores.headline[0]}: {scores.headline[1]:.1f}"))
    console.print(clean(f"Extractor: {_rule(benchmark)}. Results: {folder}"))


def _rule(benchmark: Benchmark) -> str:
    words = benchmark.rules_in_words.get(benchmark.extractor)
    return benchmark.extractor + (f" ({words})" if words else "")


def _table(benchmark: Benchmark, split: str, scores: Mapping[str, Any]) -> Table:
    """Scores in percent or points, one column per way of scoring."""
    title = f"{benchmark.name} · {benchmark.data_path.name}" + (f" · {split}" if split else "")
    # Text, not str: names of categories and files are not rich's markup, whatever brackets they hold.
    table = Table(title=Text(clean_line(title)))
    table.add_column("", overflow="fold")
    columns = as_columns(scores)
    for way in columns:
        table.add_column(clean_line(way), justify="right")
    for name in dict.fromkeys(name for values in columns.values() for name in values):
        cells = [f"{benchmark.scale * v[name]:.1f}" if name in v else "–" for v in columns.values()]
        table.add_row(Text(clean_line(name)), *cells, end_section=name == "Overall")
    return table


def _overall(extractors: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each rule's scores the Overall of each way of scoring."""
    return {
        rule: {f"Overall {way}": values["Overall"] for way, values in as_columns(scores).items() if "Overall" in values}
        for rule, scores in extractors.items()
    }


def summarize(results: Sequence[tuple[Benchmark, Scores]], folder: Path) -> None:
    """One line a benchmark, on the terminal and in `summary.json`: the number that papers quote."""
    table = Table(title=Text(clean_line(str(folder))))
    for name in ("benchmark", "data", "what", "score"):
        table.add_column(name, justify="right" if name == "score" else "left", overflow="fold")
    entries = []
    for benchmark, scores in results:
        what, value = scores.headline or ("no answers in the data", None)
        data = benchmark.data_path.name
        entries.append({"benchmark": benchmark.name, "data": data, "what": what, "score": value})
        shown = "–" if value is None else f"{value:.1f}"
        table.add_row(*(Text(clean_line(cell)) for cell in (benchmark.name, data, what, shown)))
    write_json(folder / "summary.json", entries)
    out().print(table)
