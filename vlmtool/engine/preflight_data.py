"""What a training will learn from, record by record, for `vlmtool train CONFIG --dry-run`."""

from collections.abc import Iterator
from pathlib import Path

from vlmtool.data.check import check_data
from vlmtool.data.check_report import DEFECTS, CheckReport
from vlmtool.engine.hooks.trouble import MAX_BAD_SHARE
from vlmtool.engine.planned import PlannedParts
from vlmtool.engine.preflight_report import PreflightReport
from vlmtool.models.prefix import prefix_length
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.checklist import Row, counted


def check_records(report: PreflightReport, recipe: Recipe, parts: PlannedParts, deep: bool) -> CheckReport | None:
    """Every record of the training and the held-out file; without a way to tokens, records and images only."""
    section = recipe.data
    files = []
    for key, path in (("data.path", section.path), ("data.val_path", section.val_path)):
        if path is not None and Path(path).is_file():
            files.append(path)
        elif path is not None:
            report.rows.append(Row("error", key, f"there is no file '{path}'", f"Point to it: --set {key}=FILE"))
    if not Path(section.image_folder).is_dir():
        told = f"there is no folder '{section.image_folder}'"
        report.rows.append(Row("error", "data.image_folder", told, "Point to it: --set data.image_folder=FOLDER"))
    prompting = parts.prompting(section.max_length)
    data = report.attempt(
        "data", check_data, files, section.image_folder, prompting, section.image_position, deep, places=1,
        max_bad_share=MAX_BAD_SHARE if section.on_bad_sample == "skip" else 0.0,
    )  # fmt: skip
    if data is None or not files:
        return None
    report.rows += _record_rows(data)
    if prompting is None:
        told = "neither lengths nor answers were looked at: that needs tokenizer, template, encoder and projector"
        report.rows.append(Row("warning", "tokens", told, "Mend the errors above and run this again."))
    else:
        report.rows += _token_rows(data, recipe, parts)
    return data


def _record_rows(data: CheckReport) -> Iterator[Row]:
    for kind, findings in data.by_kind().items():
        first = findings[0]
        named = f"sample '{first.sample_id}' " if first.sample_id else ""
        detail = f"{data.counts[kind]:,}, first {first.origin}: {named}{first.detail}"
        yield Row(data.level_of(kind), DEFECTS[kind].title, detail, DEFECTS[kind].remedy)
    found = {"record": data.num_records, "usable sample": data.num_samples, "image": data.num_images}
    counts = ", ".join(counted(number, what) for what, number in found.items())
    if data.num_samples:
        yield Row("ok", "data", counts)
    elif data.num_records:  # of a file without any the findings tell
        yield Row("error", "data", f"{counts}: nothing to learn from", "Give the records answers (from: gpt).")


def _token_rows(data: CheckReport, recipe: Recipe, parts: PlannedParts) -> Iterator[Row]:
    if not data.lengths:
        return
    longest, limit = data.length_at(1), recipe.data.max_length
    shares = {"half": 0.5, "90 %": 0.9, "99 %": 0.99}
    told = ", ".join(f"{name} {data.length_at(share):,}" for name, share in shares.items())
    yield Row("ok", "sample length", f"{told}, longest {longest:,} tokens; data.max_length {limit:,}")
    share = f"{data.supervised_share:.1%} of {data.num_tokens:,} tokens are answers"
    yield Row("ok", "learned from", share)
    positions = getattr(parts.llm.config, "max_position_embeddings", None) if parts.llm is not None else None
    if isinstance(positions, int) and (positions := positions - prefix_length(parts.llm)) < min(longest, limit):
        yield Row(
            "warning", "sample length", f"up to {min(longest, limit):,} tokens, of which the LLM knows {positions:,}",
            f"Set data.max_length={positions}.",
        )  # fmt: skip
