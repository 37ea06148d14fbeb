"""Everything about a training that can be known before its first step: `vlmtool train CONFIG --dry-run`.

Nothing is trained and no weights are loaded. Every check is made, whatever the others find.
"""

import os
from pathlib import Path

from vlmtool.data.check_report import CheckReport, FileCounts
from vlmtool.data.image_transform import open_picture
from vlmtool.data.sampler import StepPlan
from vlmtool.data.templates.library import find_training_template
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.engine.device import compute_dtype, pick_device
from vlmtool.engine.expand import expand
from vlmtool.engine.feed import step_plan
from vlmtool.engine.first_look import check_strategy
from vlmtool.engine.hooks.benchmark import open_benchmarks
from vlmtool.engine.optimizer import try_optimizer
from vlmtool.engine.planned import PlannedParts, planned_encoder, planned_llm, planned_projector, transform_of
from vlmtool.engine.preflight_data import check_records, check_templates
from vlmtool.engine.preflight_report import PreflightReport
from vlmtool.engine.preflight_start import check_start
from vlmtool.engine.resources import (
    PassLoad,
    checkpoint_bytes,
    count,
    disk_row,
    memory_need,
    memory_row,
    num_checkpoints,
)
from vlmtool.engine.run_folder import lies_in
from vlmtool.engine.trainable import check_trainable, num_parameters
from vlmtool.models.checkpoint import last_checkpoint
from vlmtool.models.damage import check_weight_files
from vlmtool.models.flow import check_tokens, picture_features
from vlmtool.models.llm import check_liger
from vlmtool.models.parts import BESIDE
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.checklist import Row, counted
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import check_writable
from vlmtool.utils.hub import local_folder


def preflight(
    recipe: Recipe,
    name: str,
    work_dir: Path,
    deep: bool = False,
    num_processes: int = 1,
    resume: bool = False,
    resume_from: Path | None = None,
    force: bool = False,
) -> PreflightReport:
    """Check a recipe, from its parts to its disk space.

    Args:
        name: of the recipe.
        deep: decode every image whole, not only its header.
        num_processes: that will train.
        resume: go on from the work dir's last checkpoint, if there is one; then `init_from` is not read.
        resume_from: go on from this checkpoint.
        force: warn where the weights to start from could work but do not belong here.
    """
    report = PreflightReport([Row("ok", "recipe", f"{name}: every key is known")])
    report.attempt("work dir", check_writable, work_dir, "--work-dir")
    newest = report.attempt("work dir", last_checkpoint, work_dir)
    start = resume_from or (newest if resume else None)
    if newest is not None and not lies_in(work_dir, start):
        told = f"'{work_dir}' holds a run already, up to {newest.name}"
        report.rows.append(Row("error", "work dir", told, "Add --resume to go on with it, or give another --work-dir."))
    report.attempt("strategy", check_strategy, recipe)
    _check_names(report, recipe)
    report.attempt("number type", compute_dtype, recipe.runtime.dtype, pick_device())
    parts = _look_at_parts(report, recipe)
    _check_llm(report, recipe, parts)
    _check_folders(report, recipe, parts)
    report.rows += check_templates(recipe, parts)
    data = check_records(report, recipe, parts, deep)
    _check_prompts(report, recipe)
    _check_flow(report, parts)
    for entry in recipe.schedule.eval:
        report.attempt("schedule.eval", open_benchmarks, [entry])
    # Counted by the file's path as pathlib writes it: `data.json`, also where the recipe says `./data.json`.
    files = data.files if data is not None else {}
    counts = [files.get(str(Path(given.path)), FileCounts()) for given in recipe.training_sets]
    plan = step_plan(recipe, [of_set.num_samples for of_set in counts], num_processes)
    is_counted = all(of_set.num_samples and not of_set.num_bad for of_set in counts)
    check_start(report, recipe, parts, start, force, plan, is_counted)
    load = _largest_pass(recipe, data) if data is not None and data.lengths else None
    if load is not None and data is not None:
        report.rows.append(Row("ok", "a pass", _told_pass(recipe, data, load)))
    report.steps = _steps(recipe, plan)
    report.rows += _resources(recipe, parts, work_dir, num_processes, plan, load)
    return report


def quick_checks(recipe: Recipe, work_dir: Path, num_processes: int = 1) -> list[Row]:
    """Errors and warnings of the checks that every start makes: pictures, shapes, template, disk, memory.

    A part that cannot be used is left to where it is built, which says so.
    """
    parts = _look_at_parts(PreflightReport(), recipe)
    found = PreflightReport()
    _check_names(found, recipe)
    _check_llm(found, recipe, parts)
    _check_prompts(found, recipe)
    _check_flow(found, parts)
    plan = step_plan(recipe, [0] * len(recipe.training_sets), num_processes)  # nothing has been read
    rows = found.rows + _resources(recipe, parts, work_dir, num_processes, plan) + check_templates(recipe, parts)
    return [row for row in rows if row.level != "ok"]


def start_warnings(recipe: Recipe, work_dir: Path) -> list[str]:
    """The quick checks, for a process of a run that is about to start.

    Raises:
        UsageError: the run would fail.
    """
    rows = quick_checks(recipe, work_dir, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if errors := [row for row in rows if row.level == "error"]:
        raise UsageError(errors[0].message())
    return [f"Warning: {row.message()}" for row in rows]


def _look_at_parts(report: PreflightReport, recipe: Recipe) -> PlannedParts:
    parts = PlannedParts()
    for name, path in recipe.paths.items():
        folder = report.attempt(name, local_folder, path, f"{name}.path")
        if folder is not None:
            parts.folders[name] = folder
    if "llm" in parts.folders:
        folder = parts.folders["llm"]
        parts.tokenizer = report.attempt("tokenizer", load_tokenizer, folder, recipe.runtime.trust_remote_code)
        parts.llm = report.attempt("llm", planned_llm, recipe, folder)
    if parts.tokenizer is not None or recipe.llm.template is not None:
        own = parts.tokenizer.chat_template if parts.tokenizer is not None else None
        parts.template = report.attempt("chat template", find_training_template, recipe.llm.template, own)
    if all(name in parts.folders for name in recipe.paths if name != "llm"):
        encoder, beside = parts.folders["vision_encoder"], parts.folders.get(BESIDE)
        parts.vision_encoder = report.attempt("vision_encoder", planned_encoder, recipe, encoder, beside)
    if parts.vision_encoder is not None:
        seen = parts.vision_encoder.hidden_size
        width = parts.llm.get_input_embeddings().embedding_dim if parts.llm is not None else seen
        parts.projector = report.attempt("projector", planned_projector, recipe, seen, width)
    if parts.vision_encoder is not None and parts.projector is not None:
        folder = parts.folders["vision_encoder"]
        parts.transform = report.attempt(
            "pictures", transform_of, recipe, parts.vision_encoder, parts.projector, folder
        )
    return parts


def _check_names(report: PreflightReport, recipe: Recipe) -> None:
    """What the recipe names beside its parts and its data."""
    optimizer = report.attempt("optimiser", try_optimizer, expand(recipe)["optim_wrapper"]["optimizer"])
    if optimizer is not None and optimizer.is_paged and pick_device().type == "cpu":
        told = f"{optimizer.name} moves its state out of a GPU's memory, and there is no GPU: nothing is paged"
        report.rows.append(Row("warning", "optimiser", told, "Its kind without pages does the same here."))
    if "vision_encoder" in recipe.runtime.activation_checkpointing and recipe.vision_encoder.is_frozen:
        told = "runtime.activation_checkpointing names the vision encoder, which is frozen: nothing of it is kept"
        report.rows.append(Row("warning", "memory", told, "Leave it out; it changes nothing."))
    if (cache := recipe.vision_encoder.cache) is not None:
        folder = Path(cache.folder).expanduser()
        report.attempt("kept features", check_writable, folder, "vision_encoder.cache: cache.folder")


def _check_llm(report: PreflightReport, recipe: Recipe, parts: PlannedParts) -> None:
    """What is to be done with the language model can be done with it."""
    if recipe.runtime.liger and parts.llm is not None:
        report.attempt("liger", check_liger, parts.llm.config.model_type)


def _check_folders(report: PreflightReport, recipe: Recipe, parts: PlannedParts) -> None:
    """The parts' files, and what of the parts is trained."""
    for name, folder in parts.folders.items():
        report.attempt(name, check_weight_files, folder)
    model = parts.model()
    summaries = report.attempt("trained weights", check_trainable, model, recipe) if model is not None else None
    for part in summaries or ():
        told = f"{count(part.total)} parameters, "
        told += f"{count(part.trained)} trained ({part.tuning}) at {part.lr:g}" if part.trained else "frozen"
        if part.name == "vision_encoder" and parts.transform is not None:
            told += f"; {parts.transform.views.told}"
        report.rows.append(Row("ok", part.name, told))
    if model is not None and BESIDE in parts.folders:
        second = model.vision_encoder.encoders[-1]
        told = f"{count(num_parameters(second))} of these parameters, frozen; {second.hidden_size} features a patch"
        report.rows.append(Row("ok", BESIDE, told))


def _check_prompts(report: PreflightReport, recipe: Recipe) -> None:
    """Images of the questions that are asked during training: few, and so decoded whole."""
    images = [prompt.image for prompt in recipe.data.sample_prompts if prompt.image]
    for image in images:
        report.attempt("sample_prompts", open_picture, Path(recipe.data.image_folder) / image)


def _check_flow(report: PreflightReport, parts: PlannedParts) -> None:
    """A picture's way through parts that fit together as far as their configs tell."""
    if parts.transform is None or parts.vision_encoder is None or parts.projector is None:
        return
    features = report.attempt("vision_encoder", picture_features, parts.vision_encoder)
    if features is not None:
        report.attempt("projector", check_tokens, parts.projector, features)


def _steps(recipe: Recipe, plan: StepPlan) -> int | None:
    """Of the run; None where only the data tells, and nothing was read."""
    return recipe.schedule.max_steps or (plan.steps(recipe.schedule.epochs) if plan.epoch_size else None)


def _largest_pass(recipe: Recipe, data: CheckReport) -> PassLoad:
    """The most that can come together in a micro-batch, padding included: samples as long as the longest."""
    batch = recipe.schedule.batch_size
    tokens = recipe.schedule.pack_to or batch * min(data.length_at(1), recipe.data.max_length)
    return PassLoad(tokens, round(tokens * data.supervised_share), batch * data.num_images / max(1, data.num_samples))


def _told_pass(recipe: Recipe, data: CheckReport, load: PassLoad) -> str:
    schedule, mean = recipe.schedule, data.num_tokens / max(1, data.num_samples)
    if schedule.pack_to is not None:
        return f"up to {load.tokens:,} tokens, about {schedule.pack_to / mean:.1f} samples packed into it"
    return f"{schedule.batch_size * mean:,.0f} tokens on average, up to {load.tokens:,} with padding"


def _resources(
    recipe: Recipe,
    parts: PlannedParts,
    work_dir: Path,
    num_processes: int,
    plan: StepPlan,
    load: PassLoad | None = None,
) -> list[Row]:
    """Steps, disk and memory."""
    schedule, num_samples, steps = recipe.schedule, plan.epoch_size, _steps(recipe, plan)
    epochs = steps * plan.step_size // num_samples if steps and num_samples else int(schedule.epochs)
    rows = []
    if num_samples and steps:
        rows.append(Row("ok", "steps", f"{steps:,} of {counted(plan.step_size, 'sample')}"))
    if (model := parts.model()) is not None:
        device = pick_device()
        num = num_checkpoints(schedule, steps, epochs)
        rows.append(disk_row(num, checkpoint_bytes(model, recipe), work_dir))
        rows.append(memory_row(memory_need(model, recipe, device, load), device, num_processes))
    return rows
