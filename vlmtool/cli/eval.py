"""`vlmtool eval`: ask a model the questions of a benchmark and score it, or score answers given already."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmtool.cli import options
from vlmtool.cli.eval_all import find_all
from vlmtool.cli.evaluation import Asking, Job, ask, check_asking
from vlmtool.utils.errors import DataError, UsageError
from vlmtool.utils.files import check_writable
from vlmtool.utils.terminal import clean, out

if TYPE_CHECKING:
    from vlmtool.evaluation.benchmark import Options

ALL = "all"


def evaluate(
    benchmark: Annotated[str, typer.Argument(help="Name of a benchmark, or all; a wrong name lists them.")],
    model: options.Model = None,
    data_path: Annotated[str, typer.Option("--data-path", help="The benchmark's file or folder.")] = "",
    data_root: Annotated[str, typer.Option(help="With all: the folder below which the benchmarks are.")] = "",
    image_folder: Annotated[
        str | None, typer.Option(help="Where the pictures are, if not where the official files have them.")
    ] = None,
    predictions: options.Predictions = None,
    extractor: Annotated[
        str | None, typer.Option(help="Rule that reads an answer; the benchmark's official one unless given.")
    ] = None,
    ocr_tokens: Annotated[
        bool, typer.Option("--ocr-tokens", help="TextVQA: show the model the recognised text.")
    ] = False,
    llava: options.Llava = None,
    visual_encoder: options.VisualEncoder = None,
    visual_select_layer: options.VisualSelectLayer = None,
    prompt_template: options.PromptTemplate = None,
    stop_words: options.StopWords = None,
    torch_dtype: options.TorchDtype = None,
    bits: options.Bits = None,
    max_new_tokens: options.MaxNewTokens = None,
    seed: options.Seed = 0,
    launcher: options.Launcher = "none",
    force: options.Force = False,
    trust_remote_code: options.TrustRemoteCode = False,
    work_dir: Annotated[str | None, typer.Option(help="Where results go. Default: ./work_dirs/eval/BENCHMARK.")] = None,
    batch_size: options.BatchSize = "16",
    score: options.Score = "generate",
    judge_url: Annotated[
        str | None,
        typer.Option(help="Address of a judge model, any OpenAI-compatible one; key: environment VLMTOOL_JUDGE_KEY."),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Name of the judge model.")] = None,
) -> None:
    """Score a model on a benchmark: metrics.json, rows.jsonl, predictions.jsonl, the official file and report.html.

    An interrupted run is continued by the same command. NPROC_PER_NODE=8 in front starts eight processes.
    """
    from vlmtool.evaluation.benchmark import Options
    from vlmtool.evaluation.judging.judge import open_judge
    from vlmtool.evaluation.judging.judged import check_judge
    from vlmtool.evaluation.reading.extract import check_way

    rows = options.as_batch_size(batch_size)
    given = options.given_predictions(predictions)
    check_asking(launcher, bits, bool(model or llava or predictions), f"eval {benchmark}")
    if given and benchmark == ALL:
        raise UsageError("eval all: --predictions belongs to one benchmark. Name it in place of all.")
    if data_root and benchmark != ALL:
        raise UsageError(
            f"--data-root belongs to `eval all`. Give the official files of {benchmark} with --data-path, or say all."
        )
    pictures = Path(image_folder) if image_folder else None
    how = Options(pictures, extractor, needs_pictures=not given, ocr_tokens=ocr_tokens, score=score)
    folder = Path(work_dir) if work_dir else Path("work_dirs") / "eval" / benchmark
    check_writable(folder, "--work-dir")
    check_way(score)

    def in_place(place: Path) -> Options:
        return replace(how, judge=open_judge(judge_url, judge_model, place, os.environ))

    has_judge = in_place(folder).judge is not None
    broken: list[str] = []
    notes: list[str] = []
    if benchmark == ALL:
        every = find_all(data_root, in_place, folder, has_judge)
        jobs, broken, notes = every.jobs, every.broken, every.notes
    else:
        jobs = [_job(benchmark, data_path, in_place(folder), folder)]
    check_way(score, *(job.benchmark for job in jobs))
    used = frozenset[str]().union(*(job.benchmark.options_used() for job in jobs))
    choice = {"--image-folder": image_folder, "--ocr-tokens": ocr_tokens or None, "--judge-url": judge_url}
    for option, value in choice.items():
        options.warn_unused(option, None if option in used else value, f"for {benchmark}")
    options.warn_unused("--data-path", data_path or None if benchmark == ALL else None, "for all")
    for job in jobs:
        check_judge(job.benchmark)
    if given:
        from vlmtool.evaluation.evaluate import score_given

        options.warn_unused("MODEL (with --predictions)", model or llava)
        score_given(jobs[0].benchmark, given, folder)
        return
    parts = dict(
        model=model, llava=llava, adapter=None, visual_encoder=visual_encoder, visual_select_layer=visual_select_layer,
        prompt_template=prompt_template, torch_dtype=torch_dtype, bits=bits, force=force,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    scores = ask(jobs, Asking(parts, rows, max_new_tokens, seed, tuple(stop_words or ()), launcher))
    if benchmark == ALL and scores:
        from vlmtool.evaluation.report import summarize

        summarize([(job.benchmark, result) for job, result in zip(jobs, scores, strict=True)], folder)
        for note in notes:
            out().print(clean(note))
    if broken:
        raise DataError(f"eval all: {len(broken)} could not be read: {', '.join(broken)}. The warnings say why.")


def _job(name: str, data_path: str, how: Options, folder: Path) -> Job:
    from vlmtool.evaluation.catalog import find_benchmark, open_benchmark

    find_benchmark(name)  # a typo is told first
    path = options.existing("--data-path", data_path, f"Give the official files of {name}.", is_folder_fine=True)
    return Job(open_benchmark(name, path, how), folder)
