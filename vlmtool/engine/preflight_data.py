"""What a training will learn from, record by record, for `vlmtool train CONFIG --dry-run`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vlmtool.data.check import check_data
from vlmtool.data.check_record import Prompting, Source
from vlmtool.data.check_report import DEFECTS, CheckReport
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.render import Renderer
from vlmtool.data.template_check import check_template
from vlmtool.data.templates.library import SET_TEMPLATE, ChatTemplate, find_training_template
from vlmtool.engine.feed import showing
from vlmtool.engine.first_look import missing_files
from vlmtool.engine.hooks.trouble import MAX_BAD_SHARE
from vlmtool.engine.planned import PlannedParts
from vlmtool.engine.preflight_report import PreflightReport
from vlmtool.models.prefix import prefix_length
from vlmtool.recipe.schema import DataSet, Recipe
from vlmtool.utils.checklist import Row, counted


def check_templates(recipe: Recipe, parts: PlannedParts) -> list[Row]:
    """Whether the chat templates fit the tokenizer: the LLM's, and those that sets have of their own."""
    if parts.tokenizer is None:
        return []
    own = dict.fromkeys(given.template for given in recipe.training_sets if given.template != recipe.llm.template)
    of_sets = PreflightReport()
    for name in own:
        template = of_sets.attempt(SET_TEMPLATE, find_training_template, name, None, SET_TEMPLATE)
        if template is not None:
            rows = check_template(parts.tokenizer, template, parts.vocabulary)
            of_sets.rows += [replace(row, what=SET_TEMPLATE, detail=_with_name(row, template)) for row in rows]
    if parts.template is None:
        return of_sets.rows
    return check_template(parts.tokenizer, parts.template, parts.vocabulary) + of_sets.rows


def _with_name(row: Row, template: ChatTemplate) -> str:
    return row.detail if row.level == "ok" else f"{template.name}: {row.detail}"


def check_records(report: PreflightReport, recipe: Recipe, parts: PlannedParts, deep: bool) -> CheckReport | None:
    """Every record of the training and the held-out files; without a way to tokens, records and images only."""
    section = recipe.data
    given = [given for given in _all_sets(recipe) if Path(given.path).is_file()]
    report.rows += missing_files(recipe)
    sources = [_source(recipe, one, parts) for one in given]
    data = report.attempt(
        "data", check_data, sources, deep, places=1,
        max_bad_share=MAX_BAD_SHARE if section.on_bad_sample == "skip" else 0.0,
    )  # fmt: skip
    if data is None or not sources:
        return None
    report.rows += _record_rows(data)
    if any(source.prompting is None for source in sources):
        told = "neither lengths nor answers were looked at: that needs tokenizer, template, encoder and projector"
        report.rows.append(Row("warning", "tokens", told, "Mend the errors above and run this again."))
    else:
        report.rows += _token_rows(data, recipe, parts)
    return data


def all_sources(recipe: Recipe, renderer: Renderer, transform: ImageTransform) -> list[Source]:
    """The training files and the held-out file, for `check_data`.

    Args:
        renderer, transform: for prompts; a training set may have another template and folder.

    Raises:
        UsageError: there is no such template. RecipeError: it does not mark the answers.
    """
    return [_readable(recipe, given, renderer, transform) for given in _all_sets(recipe)]


def _all_sets(recipe: Recipe) -> list[DataSet]:
    held_out = recipe.held_out_set
    return [*recipe.training_sets, *([held_out] if held_out is not None else [])]


def _readable(recipe: Recipe, given: DataSet, renderer: Renderer, transform: ImageTransform) -> Source:
    own, _ = showing(recipe, given, renderer, transform)
    prompting = Prompting(own.tokenizer, own.template, own.num_image_tokens, recipe.data.max_length)
    return replace(_bare(given), prompting=prompting)


def _bare(given: DataSet) -> Source:
    """A set whose samples are not rendered."""
    return Source(Path(given.path), Path(given.image_folder or "."), given.image_position or "as_written")


def _source(recipe: Recipe, given: DataSet, parts: PlannedParts) -> Source:
    """A set, as far as it can be read with these parts."""
    if parts.tokenizer is None or parts.template is None or parts.transform is None:
        return _bare(given)
    renderer = Renderer(parts.tokenizer, parts.template, parts.transform.num_tokens)
    found = PreflightReport().attempt("", _readable, recipe, given, renderer, parts.transform)
    return found or _bare(given)  # of a template that is wrong `check_templates` tells


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
