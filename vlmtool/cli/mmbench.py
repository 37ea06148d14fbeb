"""`vlmtool mmbench`: ask a model the questions of a MMBench file and score it, or score answers given already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmtool.utils.errors import UsageError, did_you_mean
from vlmtool.utils.files import check_writable

_LAUNCHERS = ("none", "pytorch", "slurm", "mpi")

if TYPE_CHECKING:
    from vlmtool.evaluation.mmbench import MMBench


def mmbench(
    model: Annotated[
        str | None, typer.Argument(help="A model folder that vlmtool wrote, or the LLM (local folder or hub id).")
    ] = None,
    data_path: Annotated[str, typer.Option("--data-path", help="The MMBench file (TSV).")] = "",
    predictions: Annotated[
        str | None,
        typer.Option(help="Score these answers without a model: JSON Lines, TSV or xlsx with index and prediction."),
    ] = None,
    llava: Annotated[str | None, typer.Option(help="Folder or hub id with projector and adapters.")] = None,
    visual_encoder: Annotated[str | None, typer.Option(help="The vision encoder, where the folder names none.")] = None,
    visual_select_layer: Annotated[int | None, typer.Option(help="Hidden state of the encoder to use.")] = None,
    prompt_template: Annotated[str | None, typer.Option(help="Name of the chat template.")] = None,
    stop_words: Annotated[list[str] | None, typer.Option(help="End an answer here; may be given again.")] = None,
    torch_dtype: Annotated[str | None, typer.Option(help="fp16, bf16, fp32 or auto.")] = None,
    bits: Annotated[int | None, typer.Option(help="Load the LLM in 4 or 8 bits.")] = None,
    bot_name: Annotated[str | None, typer.Option(help="Accepted for XTuner's command lines; not used.")] = None,
    offload_folder: Annotated[str | None, typer.Option(help="Accepted for XTuner's command lines; not used.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers (answers are greedy).")] = 0,
    launcher: Annotated[str, typer.Option(help="none, pytorch, slurm or mpi.")] = "none",
    force: Annotated[
        bool, typer.Option("--force", help="Go on where an adapter was trained on another base, if its shapes fit.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the model brings along.")
    ] = False,
    work_dir: Annotated[
        str | None, typer.Option(help="Where results go. Default: ./work_dirs/mmbench/<name of the file>.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions asked at once.")] = 16,
    extractor: Annotated[
        str, typer.Option(help="Rule that reads the letter out of an answer: vlmeval, xtuner or strict.")
    ] = "vlmeval",
) -> None:
    """Score a model on a MMBench file: CircularEval and vanilla, overall and by category.

    An interrupted run is continued by the same command. Results: metrics.json, rows.jsonl, predictions.jsonl,
    mmbench_result.xlsx and report.html in the work dir.
    """
    from vlmtool.evaluation.extract import find_extractor
    from vlmtool.evaluation.mmbench import MMBench

    find_extractor(extractor)  # a typo is told before anything is read
    data_file = _existing_file("--data-path", data_path, "Give the MMBench TSV, e.g. mmbench_dev_en.tsv.")
    answers_file = predictions and _existing_file("--predictions", predictions, "Give JSON Lines, TSV or xlsx.")
    _check(bits, launcher, has_source=bool(model or llava or predictions))
    folder = Path(work_dir) if work_dir else Path("work_dirs") / "mmbench" / data_file.stem
    check_writable(folder, "--work-dir")
    benchmark = MMBench(data_file, extractor, needs_pictures=not answers_file)
    if answers_file:
        _warn_unused("MODEL (with --predictions)", model or llava)
        _score_given(benchmark, answers_file, folder)
        return
    _warn_unused("--bot-name", bot_name)
    _warn_unused("--offload-folder", offload_folder)
    parts = dict(
        llava=llava, adapter=None, visual_encoder=visual_encoder, visual_select_layer=visual_select_layer,
        prompt_template=prompt_template, torch_dtype=torch_dtype, bits=bits, force=force,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    _score_model(benchmark, model, parts, folder, batch_size, max_new_tokens, seed, tuple(stop_words or ()))


def _score_model(
    benchmark: MMBench, model: str | None, parts: dict[str, Any], folder: Path,
    batch_size: int, max_new_tokens: int, seed: int, stop_words: tuple[str, ...],
) -> None:  # fmt: skip
    from dataclasses import asdict

    from vlmtool.chat.generator import GenerationSettings
    from vlmtool.chat.load import load_chat_model
    from vlmtool.evaluation.report import report
    from vlmtool.evaluation.run import answer_all
    from vlmtool.utils.distributed import is_main

    settings = GenerationSettings(max_new_tokens=max_new_tokens, temperature=0.0, seed=seed, stop_words=stop_words)
    generator = load_chat_model(model, device=None, **parts)
    # Options that change what the model reads or computes belong to the key of an answer.
    options = repr([parts[name] for name in ("visual_select_layer", "prompt_template", "torch_dtype", "bits")])
    answers = answer_all(benchmark, generator, settings, folder, batch_size, identity=options)
    if is_main():
        made_by = {"model": model, **parts, "identity": generator.identity, "generation": asdict(settings)}
        report(benchmark, answers, folder, made_by)


def _score_given(benchmark: MMBench, path: Path, folder: Path) -> None:
    from vlmtool.evaluation.predictions import AnswerStore, read_predictions
    from vlmtool.evaluation.report import report
    from vlmtool.utils.errors import DataError

    answers = read_predictions(path)
    if not any(sample.index in answers for sample in benchmark.samples()):
        raise DataError(
            f"{path}: none of its {len(answers)} answers is for a row of {benchmark.data_path}. "
            "Give the predictions that were made on this file."
        )
    store = AnswerStore(folder)
    if not (store.path.exists() and store.path.samefile(path)):
        store.replace(answers)
    report(benchmark, answers, folder, {"predictions": str(path)})


def _check(bits: int | None, launcher: str, has_source: bool) -> None:
    if bits not in (None, 4, 8):
        raise UsageError(f"--bits {bits}: quantization knows 4 and 8. Leave it out for full precision.")
    if launcher not in _LAUNCHERS:
        raise UsageError(
            f"--launcher {launcher}: unknown.{did_you_mean(launcher, _LAUNCHERS)} Use one of: {', '.join(_LAUNCHERS)}."
        )
    if not has_source:
        raise UsageError("mmbench: no model. Name a model folder, or score given answers with --predictions FILE.")


def _existing_file(option: str, value: str, advice: str) -> Path:
    if not value:
        raise UsageError(f"{option} is missing. {advice}")
    path = Path(value)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise UsageError(f"{option} {value}: {what}. {advice}")
    return path


def _warn_unused(option: str, value: object) -> None:
    if value is not None:
        typer.echo(f"Warning: {option} has no effect here.", err=True)
