"""`vlmtool data check | preview | cache`: what is wrong with the training data, how the model sees it, and how fast."""

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import UsageError, did_you_mean, shortened
from vlmtool.utils.terminal import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table
    from rich.text import Text

    from vlmtool.data.check_report import CheckReport
    from vlmtool.data.conversation import Conversation
    from vlmtool.data.image_transform import ImageTransform
    from vlmtool.data.preview import Preview
    from vlmtool.data.render import Renderer
    from vlmtool.recipe.schema import Recipe

SHOWN = 10  # places listed of each kind without --all

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="Recipe name or file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "--cfg-options", metavar="KEY=VALUE", help="Change a value; may be given several times."),
]


def check(
    config: ConfigArgument,
    overrides: SetOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every image whole, not only its header.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Look at the first N records of each file only.")
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help=f"List every place, not only the first {SHOWN} of each kind.")
    ] = False,
) -> None:
    """Read all training data and list what is wrong with it; exit code 1 where training would stop."""
    from vlmtool.data.check import check_data
    from vlmtool.engine.hooks.trouble import MAX_BAD_SHARE
    from vlmtool.engine.preflight_data import all_sources
    from vlmtool.recipe.load import load_recipe
    from vlmtool.utils.terminal import out

    recipe = load_recipe(config, overrides or [])
    data = recipe.data
    sources = all_sources(recipe, *_showing(recipe))
    max_bad_share = MAX_BAD_SHARE if data.on_bad_sample == "skip" else 0.0
    report = check_data(sources, deep, limit, None if show_all else SHOWN, max_bad_share)
    console = out()
    console.print(_summary(report, data.max_length))
    if report.findings:
        console.print(_table(report), soft_wrap=False)
        for line in _places(report):
            console.print(line)
    if not report.num_samples:
        console.print("No sample is left to learn from.")
    if report.has_errors:
        raise typer.Exit(1)


def preview(
    config: ConfigArgument,
    overrides: SetOption = None,
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="How many samples of each set, from the first.")] = 3,
    sample_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Only the sample of this id.")] = None,
) -> None:
    """Show samples as the model will see them; what it learns to say is coloured, or stands between « and »."""
    from vlmtool.data.formats.llava import read_conversations
    from vlmtool.data.preview import preview_sample
    from vlmtool.engine.feed import showing
    from vlmtool.recipe.load import load_recipe
    from vlmtool.utils.terminal import out

    recipe = load_recipe(config, overrides or [])
    of_all = _showing(recipe)
    sets = recipe.training_sets
    read = [read_conversations(given.path, given.image_position or "as_written") for given in sets]
    chosen = [list(islice(one, num)) for one in read] if sample_id is None else _with_id(read, sample_id)
    console = out()
    for given, conversations in zip(sets, chosen, strict=True):
        own = showing(recipe, given, *of_all)
        for conversation in conversations:
            shown = preview_sample(conversation, *own, recipe.data.max_length)
            console.print(_sample_text(shown, coloured=console.is_terminal and not console.no_color))


def cache(config: ConfigArgument, overrides: SetOption = None) -> None:
    """Keep the features of every picture, so that training need not encode them; killed, the same command goes on.

    Ends with 1 where pictures cannot be read; those of all others are kept.
    """
    from vlmtool.engine.cache_features import cache_features, told
    from vlmtool.recipe.load import load_recipe
    from vlmtool.utils.terminal import out

    cached = cache_features(load_recipe(config, overrides or []))
    for line in told(cached):
        out().print(clean(line), soft_wrap=True)
    if cached.bad:
        raise typer.Exit(1)


def _showing(recipe: "Recipe") -> "tuple[Renderer, ImageTransform]":
    """How samples are rendered and pictures shown; no weights are loaded.

    Raises:
        RecipeError: the template does not mark the answers.
    """
    from vlmtool.data.render import Renderer
    from vlmtool.data.templates.library import find_training_template
    from vlmtool.data.tokenizer import load_tokenizer
    from vlmtool.engine.planned import planned_transform
    from vlmtool.utils.hub import local_folder

    tokenizer = load_tokenizer(local_folder(recipe.llm.path, "llm.path"), recipe.runtime.trust_remote_code)
    template = find_training_template(recipe.llm.template, tokenizer.chat_template)
    transform = planned_transform(recipe, local_folder(recipe.vision_encoder.path, "vision_encoder.path"))
    return Renderer(tokenizer, template, transform.num_tokens), transform


def _summary(report: "CheckReport", max_length: int) -> str:
    found = {"record": report.num_records, "usable sample": report.num_samples, "image": report.num_images}
    counts = ", ".join(counted(number, what) for what, number in found.items()) + "."
    if not report.num_samples:
        return counts
    shares = {"half": 0.5, "90 %": 0.9, "99 %": 0.99, "all": 1.0}
    lengths = ", ".join(f"{name} {report.length_at(share):,}" for name, share in shares.items())
    return (
        f"{counts}\nTokens a sample, images included, at most: {lengths} (data.max_length {max_length:,}).\n"
        f"{counted(report.num_tokens, 'token')}, {report.supervised_share:.1%} of them supervised."
    )


def _table(report: "CheckReport") -> "Table":
    """A row for each kind of defect, worst first."""
    from rich.table import Table
    from rich.text import Text

    from vlmtool.data.check_report import DEFECTS

    table = Table("", "what", "count", "how to fix it")
    table.columns[2].justify = "right"
    for kind in report.by_kind():
        name, defect = report.level_of(kind), DEFECTS[kind]
        level = Text(name, style="bold red" if name == "error" else "yellow")
        table.add_row(level, Text(defect.title), f"{report.counts[kind]:,}", Text(defect.remedy))
    return table


def _places(report: "CheckReport") -> "list[Text]":
    """A line for each place, under its kind; those that were not kept are counted."""
    from rich.text import Text

    from vlmtool.data.check_report import DEFECTS

    lines: list[Text] = []
    for kind, findings in report.by_kind().items():
        lines.append(Text(f"{report.level_of(kind)}: {DEFECTS[kind].title}", style="bold"))
        for finding in findings:
            named = f" sample '{finding.sample_id}'" if finding.sample_id else ""
            lines.append(Text("  " + clean(f"{finding.origin}:{named} {finding.detail}").replace("\n", " ")))
        if report.counts[kind] > len(findings):
            lines.append(Text(f"  … and {report.counts[kind] - len(findings):,} more; --all lists them."))
    return lines


def _with_id(sets: "Iterable[Iterable[Conversation]]", sample_id: str) -> "list[list[Conversation]]":
    """The samples of an id, set by set."""
    conversations = [list(one) for one in sets]
    chosen = [[conversation for conversation in one if conversation.id == sample_id] for one in conversations]
    if not any(chosen):
        hint = did_you_mean(sample_id, [conversation.id for one in conversations for conversation in one[:10_000]])
        raise UsageError(f"--id {shortened(sample_id)}: no record of the data has this id.{hint}")
    return chosen


def _sample_text(sample: "Preview", coloured: bool) -> "Text":
    """A heading with the counts, and the sample's text under it."""
    from rich.text import Text

    cut = f", {sample.num_cut:,} more cut by data.max_length" if sample.num_cut else ""
    counts = f"{counted(sample.num_tokens, 'token')}, {sample.num_supervised:,} supervised{cut}"
    heading = clean(f"sample '{shortened(sample.id)}' ({sample.origin}): {counts}")
    text = Text(heading + "\n", style="bold" if coloured else "")
    body = Text()
    styles = {"prompt": "", "answer": "bold green", "image": "cyan"}
    for piece in sample.pieces:
        shown = clean(piece.text)
        marked = f"«{shown}»" if piece.kind == "answer" and not coloured else shown
        body.append(marked, style=styles[piece.kind] if coloured else "")
    return Text.assemble(text, body, "\n")
