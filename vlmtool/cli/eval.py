"""`vlmtool eval`: ask a model the questions of a benchmark and score it, or score answers given already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmtool.cli import options
from vlmtool.cli.evaluation import Asking, Job, ask, check_asking
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import check_writable

if TYPE_CHECKING:
    from vlmtool.evaluation.benchmark import Options

ALL = "all"


def evaluate(
    benchmark: Annotated[str, typer.Argument(help="Name of a benchmark, or all; a wrong name lists them.")],
    model: options.Model = None,
    data_path: Annotated[str, typer.Option("--data-path", help="The benchmark's file or folder.")] = "",
    data_root: Annotated[str, typer.Option(help="With all: the folder that holds the benchmarks' folders.")] = "",
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
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 100,
    seed: options.Seed = 0,
    launcher: options.Launcher = "none",
    force: options.Force = False,
    trust_remote_code: options.TrustRemoteCode = False,
    work_dir: Annotated[str | None, typer.Option(help="Where results go. Default: ./work_dirs/eval/BENCHMARK.")] = None,
    batch_size: options.BatchSize = "16",
) -> None:
    """Score a model on a benchmark: metrics.json, rows.jsonl, predictions.jsonl, the official file and report.html.

    An interrupted run is continued by the same command. NPROC_PER_NODE=8 in front starts eight processes.
    """
    from vlmtool.evaluation.benchmark import Options

    rows = options.as_batch_size(batch_size)
    given = predictions and options.existing("--predictions", predictions, "Give JSON Lines, JSON, TSV or xlsx.")
    check_asking(launcher, bits, bool(model or llava or predictions), f"eval {benchmark}")
    pictures = Path(image_folder) if image_folder else None
    how = Options(pictures, extractor, needs_pictures=not given, ocr_tokens=ocr_tokens)
    folder = Path(work_dir) if work_dir else Path("work_dirs") / "eval" / benchmark
    check_writable(folder, "--work-dir")
    jobs = _all_jobs(data_root, how, folder) if benchmark == ALL else [_job(benchmark, data_path, how, folder)]
    if given:
        from vlmtool.evaluation.evaluate import score_given

        if benchmark == ALL:
            raise UsageError("eval all: --predictions belongs to one benchmark. Name it in place of all.")
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


def _job(name: str, data_path: str, how: Options, folder: Path) -> Job:
    from vlmtool.evaluation.catalog import find_benchmark, open_benchmark

    find_benchmark(name)  # a typo is told first
    path = options.existing("--data-path", data_path, f"Give the official files of {name}.", is_folder_fine=True)
    return Job(open_benchmark(name, path, how), folder)


def _all_jobs(data_root: str, how: Options, folder: Path) -> list[Job]:
    """Every benchmark whose files lie where the official archives unpack them."""
    from vlmtool.evaluation.catalog import benchmark_classes, find_data, open_benchmark

    root = Path(data_root)
    if not data_root or not root.is_dir():
        raise UsageError(
            f"--data-root {data_root}: no such folder. Give the folder that holds the benchmarks' folders."
        )
    found = [(name, path) for name, kind in benchmark_classes().items() for path in find_data(kind, root)]
    if not found:
        names = ", ".join(benchmark_classes())
        raise UsageError(f"--data-root {data_root}: no benchmark's files are below it. Looked for: {names}.")
    several = {name for name, _ in found if [other for other, _ in found].count(name) > 1}
    return [
        Job(open_benchmark(name, path, how), folder / (f"{name}_{path.stem}" if name in several else name))
        for name, path in found
    ]
