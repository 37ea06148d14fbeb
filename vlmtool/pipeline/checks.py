"""What is looked at before the first stage starts, so that a typo in the last one is told at once."""

from collections.abc import Sequence
from pathlib import Path

from vlmtool.convert.target import check_target
from vlmtool.engine.first_look import check_paths
from vlmtool.engine.init_from import find_source
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.catalog import find_benchmark, open_benchmark
from vlmtool.evaluation.judging.judged import check_judge
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.models.manifest import read_manifest
from vlmtool.pipeline.stages import Evaluation, Pipeline, Stage
from vlmtool.pipeline.standing import Ends, Standing, is_made_of, standing
from vlmtool.recipe.catalog import default_work_dir
from vlmtool.utils.errors import CheckpointError, UsageError


def check_pipeline(pipeline: Pipeline, ends: Ends, repeat: bool) -> list[Standing]:
    """Where each stage stands; everything that the stages read is there, and what is there follows from the recipes.

    Args:
        repeat: stages that do not follow will be trained again.

    Raises:
        VlmtoolError: something is missing or contradicts; its stage is named.
    """
    for stage in pipeline.stages:
        try:
            check_paths(stage.recipe, stage.folder)
        except UsageError as error:
            raise UsageError(f"{_begun(stage.title)}: {error}") from error
    for evaluation in pipeline.evaluations:
        _check_evaluation(evaluation)
    _check_starts(pipeline.stages)
    found = look(pipeline.stages, ends)
    if not repeat:
        for one in found:
            refuse_stale(one)
    newest = found[-1].trained if found[-1].is_finished else None
    for folder in {pipeline.model_folder, pipeline.result}:
        if newest is None or not is_made_of(folder, newest.sha256):
            check_target(folder, [])
    return found


def look(stages: Sequence[Stage], ends: Ends) -> list[Standing]:
    """Where each stage stands."""
    found: list[Standing] = []
    for stage in stages:
        found.append(standing(stage, found[-1] if found else None, ends))
    return found


def refuse_stale(found: Standing) -> None:
    """What is in a stage's folder must follow from its recipe and from the stage before.

    Raises:
        UsageError: it does not.
    """
    if found.stale:
        stage = found.stage
        raise UsageError(
            f"{_begun(stage.title)}, in '{stage.folder}' {found.stale}.\n"
            "Set it as it was, give another --work-dir, or train what does not follow again: --repeat keeps the old."
        )


def _check_evaluation(evaluation: Evaluation) -> None:
    """The benchmark is known, and its data can be read."""
    find_benchmark(evaluation.benchmark)
    if not evaluation.data_path.exists():
        raise UsageError(
            f"--eval {evaluation.benchmark}:{evaluation.data_path}: there is no '{evaluation.data_path}'.\n"
            "Give BENCHMARK:FILE, such as mmbench:mmbench_dev_en.tsv."
        )
    check_judge(open_benchmark(evaluation.benchmark, evaluation.data_path, Options()))


def _check_starts(stages: Sequence[Stage]) -> None:
    """What `init_from` says: of the first stage it must be there, of another it must not be a third thing.

    A later stage starts from the last checkpoint of the stage before. Its recipe may name that folder, the one that the
    stage before has by default, another run of the same recipe, or what is not there: then the stage before is meant.
    """
    first, *others = stages
    if first.recipe.init_from is not None:
        find_source(first.recipe.init_from)
    for before, stage in zip(stages, others, strict=False):
        said = stage.recipe.init_from
        if said is not None and not _means(Path(said).expanduser(), before):
            raise UsageError(
                f"{_begun(stage.title)}: its recipe starts from '{said}', which is not {before.title}.\n"
                f"Say that the stage before is meant: --set {stage.number}:init_from=None; or leave that stage out."
            )


def _means(place: Path, before: Stage) -> bool:
    """`place`, as a recipe names it, stands for the stage before."""
    own = {folder.resolve() for folder in (before.folder, default_work_dir(before.config))}
    if place.resolve() in own or place.resolve().parent in own:
        return True
    if not place.exists():
        return True
    try:
        return _recipe_of(find_source(str(place))) == before.name
    except (UsageError, CheckpointError):  # nothing was saved there yet, or it is not vlmtool's
        return place.is_dir() and not any(place.iterdir())


def _recipe_of(source: Path) -> str:
    """Name of the recipe that trained a checkpoint or a model folder."""
    if source.is_file():
        return str(read_checkpoint(source).meta.get("name"))
    manifest = read_manifest(source)
    return str(manifest.parents[0].get("name")) if manifest is not None and manifest.parents else ""


def _begun(title: str) -> str:
    """At the beginning of a sentence."""
    return title[0].upper() + title[1:]
