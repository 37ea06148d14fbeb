"""`vlmtool mmbench`: ask a model the questions of a MMBench file and score it, or score answers given already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmtool.cli import options
from vlmtool.cli.evaluation import Asking, Job, ask, check_asking
from vlmtool.utils.files import check_writable


def mmbench(
    model: options.Model = None,
    data_path: Annotated[str, typer.Option("--data-path", help="The MMBench file (TSV).")] = "",
    predictions: options.Predictions = None,
    llava: options.Llava = None,
    visual_encoder: options.VisualEncoder = None,
    visual_select_layer: options.VisualSelectLayer = None,
    prompt_template: options.PromptTemplate = None,
    stop_words: options.StopWords = None,
    torch_dtype: options.TorchDtype = None,
    bits: options.Bits = None,
    bot_name: Annotated[str | None, typer.Option(help="Accepted for XTuner's command lines; not used.")] = None,
    offload_folder: Annotated[str | None, typer.Option(help="Accepted for XTuner's command lines; not used.")] = None,
    max_new_tokens: options.MaxNewTokens = None,
    seed: options.Seed = 0,
    launcher: options.Launcher = "none",
    force: options.Force = False,
    trust_remote_code: options.TrustRemoteCode = False,
    work_dir: Annotated[
        str | None, typer.Option(help="Where results go. Default: ./work_dirs/mmbench/<name of the file>.")
    ] = None,
    batch_size: options.BatchSize = "16",
    extractor: Annotated[
        str | None,
        typer.Option(help="Rule that reads the letter out of an answer: vlmeval (default), xtuner, strict, or all."),
    ] = None,
    score: options.Score = "generate",
) -> None:
    """Score a model on a MMBench file: CircularEval and vanilla, overall and by category.

    An interrupted run is continued by the same command. Results: metrics.json, rows.jsonl, predictions.jsonl,
    mmbench_result.xlsx and report.html in the work dir. NPROC_PER_NODE=8 in front starts eight processes.
    """
    from vlmtool.evaluation.benchmark import Options
    from vlmtool.evaluation.benchmarks.mmbench import MMBench
    from vlmtool.evaluation.reading.extract import check_way, choose_reading

    check_way(score, MMBench)
    choose_reading(extractor, score)  # a typo is told before anything is read
    rows = options.as_batch_size(batch_size)
    data_file = options.existing("--data-path", data_path, "Give the MMBench TSV, e.g. mmbench_dev_en.tsv.")
    given = options.given_predictions(predictions)
    check_asking(launcher, bits, bool(model or llava or predictions), "mmbench")
    folder = Path(work_dir) if work_dir else Path("work_dirs") / "mmbench" / data_file.stem
    check_writable(folder, "--work-dir")
    benchmark = MMBench(data_file, Options(extractor=extractor, needs_pictures=not given, score=score))
    if given:
        from vlmtool.evaluation.evaluate import score_given

        options.warn_unused("MODEL (with --predictions)", model or llava)
        score_given(benchmark, given, folder)
        return
    options.warn_unused("--bot-name", bot_name)
    options.warn_unused("--offload-folder", offload_folder)
    parts = dict(
        model=model, llava=llava, adapter=None, visual_encoder=visual_encoder, visual_select_layer=visual_select_layer,
        prompt_template=prompt_template, torch_dtype=torch_dtype, bits=bits, force=force,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    ask([Job(benchmark, folder)], Asking(parts, rows, max_new_tokens, seed, tuple(stop_words or ()), launcher))
