"""The way of a pipeline, from wherever it stands to its end. Read `run_pipeline` first."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vlmtool.engine.run_folder import locked
from vlmtool.evaluation.report import METRICS_FILE
from vlmtool.models.fingerprint import file_hashes
from vlmtool.pipeline.checks import refuse_stale
from vlmtool.pipeline.command import run_command
from vlmtool.pipeline.stages import Evaluation, Pipeline, Stage
from vlmtool.pipeline.standing import Ends, Standing, Trained, is_made_of, standing
from vlmtool.recipe.override import parse_value
from vlmtool.utils.terminal import clean, err

Execute = Callable[[Sequence[str]], int]


class CommandFailed(SystemExit):
    """A command of the pipeline failed, and has said why; the pipeline ends with its exit code."""


def run_pipeline(pipeline: Pipeline, ends: Ends, repeat: bool = False, execute: Execute = run_command) -> None:
    """Do what is left to do: train each stage from the one before, convert and merge the last one, score it.

    Every command may be killed at any moment: what it has done is read from what it left.

    Args:
        ends: is told of what comes to its end.
        repeat: set a stage aside that does not follow from its recipe or from the stage before, and train it again.
        execute: runs a command line of vlmtool's, and returns its exit code.

    Raises:
        CommandFailed: a command failed.
        UsageError: a stage does not follow, and is not to be repeated.
    """
    before: Standing | None = None
    for stage in pipeline.stages:
        before = _finish(pipeline, stage, before, ends, repeat, execute)
    if before is None or before.trained is None:
        raise AssertionError("a stage that ended has saved")
    for title, words in conversions(pipeline, before.trained):
        _do(title, words, execute)
    for evaluation in pipeline.evaluations:
        of = scored_of(evaluation, before.trained)
        if not is_scored(pipeline, evaluation, of, ends):
            _do(f"Score {evaluation.name}", _score_words(pipeline, evaluation), execute)
            ends.note_score(pipeline.scores(evaluation), of)


def _finish(
    pipeline: Pipeline, stage: Stage, before: Standing | None, ends: Ends, repeat: bool, execute: Execute
) -> Standing:
    """Bring a stage to its end, wherever it stands."""
    now = standing(stage, before, ends)
    if now.stale and repeat:
        _set_aside(stage)
        now = standing(stage, before, ends)
    refuse_stale(now)
    if now.is_finished:
        return now
    if now.was_replaced and now.trained is not None:
        _tell(f"{stage.folder}: {now.trained.named()} is not the checkpoint that this stage ended with before.")
    start = before.trained if before is not None else None
    title = f"Stage {stage.number} of {len(pipeline.stages)}: {stage.name}"
    _do(title, train_words(stage, start, has_checkpoint=now.trained is not None), execute)
    done = standing(stage, before, ends)
    if done.trained is None:
        raise AssertionError("the last step always saves")
    ends.note_stage(stage.name, done.trained.sha256)
    return standing(stage, before, ends)


def train_words(stage: Stage, start: Trained | None, has_checkpoint: bool) -> list[str]:
    """The command that trains a stage, or goes on with it.

    Args:
        start: of the stage before.
        has_checkpoint: the folder holds one to go on from.
    """
    overrides = list(stage.overrides)
    if start is not None:
        path = str(start.path)
        overrides.append(f"init_from={path if parse_value(path) == path else repr(path)}")
    given = ["--work-dir", str(stage.folder), *_sets(overrides)]
    return ["train", stage.config, *given, *["--resume"] * has_checkpoint]


def _sets(overrides: Sequence[str]) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def conversions(pipeline: Pipeline, end: Trained) -> Iterator[tuple[str, list[str]]]:
    """(title, command) of each conversion that is still to be done, in order.

    Args:
        end: of the last stage.
    """
    stage, model, result = pipeline.last, pipeline.model_folder, pipeline.result
    if not is_made_of(model, end.sha256):
        words = ["convert", "pth_to_hf", stage.config, str(end.path), str(model), *_sets(stage.overrides)]
        yield "From the checkpoint to a model folder", words
    if pipeline.merges and not is_made_of(result, end.sha256):
        words = ["convert", "merge", str(model), str(result), *_trust(pipeline)]
        yield "Merge the adapters into the weights", words


def scored_of(evaluation: Evaluation, end: Trained) -> str:
    """What a score is of: the checkpoint, and the benchmark's file where it is one."""
    data = evaluation.data_path
    return f"{end.sha256} {file_hashes([data])[data]}" if data.is_file() else end.sha256


def is_scored(pipeline: Pipeline, evaluation: Evaluation, of: str, ends: Ends) -> bool:
    """The results of a benchmark are there, and are of this checkpoint and this data."""
    folder = pipeline.scores(evaluation)
    return ends.is_scored(folder, of) and (folder / METRICS_FILE).is_file()


def _score_words(pipeline: Pipeline, evaluation: Evaluation) -> list[str]:
    data, folder = str(evaluation.data_path), str(pipeline.scores(evaluation))
    given = ["--data-path", data, "--work-dir", folder, *_trust(pipeline)]
    return ["eval", evaluation.benchmark, str(pipeline.result), *given]


def _trust(pipeline: Pipeline) -> list[str]:
    return ["--trust-remote-code"] * pipeline.last.recipe.runtime.trust_remote_code


def _do(title: str, words: Sequence[str], execute: Execute) -> None:
    """Print a command as a user would type it, and run it."""
    console = err()
    console.print(clean(f"\n{title}"), style="bold")
    console.print(clean(f"$ {shlex.join(['vlmtool', *words])}"), style="cyan")
    if code := execute(words):
        _tell(f"This command ended with exit code {code}. The same `vlmtool run` goes on from it.")
        raise CommandFailed(code)


def _set_aside(stage: Stage) -> None:
    """Rename a stage's folder, so that the stage is trained again and nothing is lost."""
    number = 1
    while (place := _earlier(stage.folder, number)).exists():
        number += 1
    with locked(stage.folder):  # no training goes on in there
        stage.folder.rename(place)
    _tell(f"{stage.title} is trained again; what was there is kept in {place}.")


def _earlier(folder: Path, number: int) -> Path:
    return folder.with_name(f"{folder.name}_earlier_{number}")


def _tell(line: str) -> None:
    err().print(clean(line))
