"""Everything about a training that can be known before its first step: `vlmtool train CONFIG --dry-run`.

Nothing is trained and no weights are loaded. Every check is made, whatever the others find.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

from vlmtool.data.check import check_data
from vlmtool.data.check_report import DEFECTS, CheckReport
from vlmtool.data.image_transform import load_image_processor, open_picture
from vlmtool.data.sampler import StepPlan
from vlmtool.data.template_check import check_template
from vlmtool.data.templates.library import find_training_template
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.engine.device import compute_dtype, pick_device
from vlmtool.engine.hooks.trouble import MAX_BAD_SHARE
from vlmtool.engine.init_from import find_source, setup_of_run, start_stage
from vlmtool.engine.meta import part_origins
from vlmtool.engine.planned import PlannedParts, planned_encoder, planned_llm, planned_projector
from vlmtool.engine.resources import checkpoint_bytes, count, disk_row, memory_need, memory_row, num_checkpoints
from vlmtool.engine.run_folder import lies_in
from vlmtool.engine.trainable import check_trainable
from vlmtool.models.build import import_class
from vlmtool.models.checkpoint import last_checkpoint
from vlmtool.models.damage import check_weight_files
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.checklist import Row, counted, error_row
from vlmtool.utils.errors import UsageError, VlmtoolError
from vlmtool.utils.files import check_writable
from vlmtool.utils.hub import local_folder

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class PreflightReport:
    """What was found, in the order of the checks."""

    rows: list[Row] = field(default_factory=list)

    def attempt(self, what: str, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T | None:
        """What `function` returns; an error of it becomes a row, and None."""
        try:
            return function(*arguments, **options)
        except VlmtoolError as error:
            self.rows.append(error_row(what, error))
            return None

    def count(self, level: str) -> int:
        """Rows of a level."""
        return sum(row.level == level for row in self.rows)


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
    report.attempt("optimiser", import_class, recipe.schedule.optimizer, "schedule.optimizer")
    report.attempt("number type", compute_dtype, recipe.runtime.dtype, pick_device())
    parts = _look_at_parts(report, recipe)
    _check_folders(report, recipe, parts)
    if parts.tokenizer is not None and parts.template is not None:
        report.rows += check_template(parts.tokenizer, parts.template, parts.vocabulary)
    data = _check_records(report, recipe, parts, deep)
    _check_prompts(report, recipe)
    _check_start(report, recipe, parts, start, force)
    # Counted by the file's path as pathlib writes it: `data.json`, also where the recipe says `./data.json`.
    samples = data.samples_of.get(str(Path(recipe.data.path)), 0) if data is not None else 0
    report.rows += _resources(recipe, parts, work_dir, num_processes, samples)
    return report


def quick_checks(recipe: Recipe, work_dir: Path, num_processes: int = 1) -> list[Row]:
    """Errors and warnings of the checks that every start makes: pictures of questions, template, disk, memory.

    A part that cannot be used is left to where it is built, which says so.
    """
    parts = _look_at_parts(PreflightReport(), recipe)
    prompts = PreflightReport()
    _check_prompts(prompts, recipe)
    rows = prompts.rows + _resources(recipe, parts, work_dir, num_processes, 0)
    if parts.tokenizer is not None and parts.template is not None:
        rows += check_template(parts.tokenizer, parts.template, parts.vocabulary)
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
    for name in ("llm", "vision_encoder"):
        folder = report.attempt(name, local_folder, getattr(recipe, name).path, f"{name}.path")
        if folder is not None:
            parts.folders[name] = folder
    if "llm" in parts.folders:
        folder = parts.folders["llm"]
        parts.tokenizer = report.attempt("tokenizer", load_tokenizer, folder, recipe.runtime.trust_remote_code)
        parts.llm = report.attempt("llm", planned_llm, recipe, folder)
    if parts.tokenizer is not None or recipe.llm.template is not None:
        own = parts.tokenizer.chat_template if parts.tokenizer is not None else None
        parts.template = report.attempt("chat template", find_training_template, recipe.llm.template, own)
    if "vision_encoder" in parts.folders:
        parts.vision_encoder = report.attempt(
            "vision_encoder", planned_encoder, recipe, parts.folders["vision_encoder"]
        )
    if parts.vision_encoder is not None:
        seen = parts.vision_encoder.hidden_size
        width = parts.llm.get_input_embeddings().embedding_dim if parts.llm is not None else seen
        parts.projector = report.attempt("projector", planned_projector, recipe, seen, width)
    return parts


def _check_folders(report: PreflightReport, recipe: Recipe, parts: PlannedParts) -> None:
    """The parts' files, and what of the parts is trained."""
    for name, folder in parts.folders.items():
        report.attempt(name, check_weight_files, folder)
    if "vision_encoder" in parts.folders:
        report.attempt("image processor", load_image_processor, parts.folders["vision_encoder"])
    model = parts.model()
    summaries = report.attempt("trained weights", check_trainable, model, recipe) if model is not None else None
    for part in summaries or ():
        told = f"{count(part.total)} parameters, "
        told += f"{count(part.trained)} trained ({part.tuning}) at {part.lr:g}" if part.trained else "frozen"
        if part.name == "vision_encoder" and model is not None:
            told += f"; {model.tokens_per_image} tokens an image"
        report.rows.append(Row("ok", part.name, told))


def _check_records(report: PreflightReport, recipe: Recipe, parts: PlannedParts, deep: bool) -> CheckReport | None:
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
    else:
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
    if isinstance(positions, int) and positions < min(longest, limit):
        yield Row(
            "warning", "sample length", f"up to {min(longest, limit):,} tokens, of which the LLM knows {positions:,}",
            f"Set data.max_length={positions}.",
        )  # fmt: skip


def _check_prompts(report: PreflightReport, recipe: Recipe) -> None:
    """Images of the questions that are asked during training: few, and so decoded whole."""
    images = [prompt.image for prompt in recipe.data.sample_prompts if prompt.image]
    for image in images:
        report.attempt("sample_prompts", open_picture, Path(recipe.data.image_folder) / image)


def _check_start(
    report: PreflightReport, recipe: Recipe, parts: PlannedParts, resume_from: Path | None, force: bool
) -> None:
    """The weights to start from are there, were trained on these parts, and have the shapes of this model."""
    if resume_from is not None:
        what, source = "resume", None
    elif recipe.init_from is not None:
        what, source = "init_from", report.attempt("init_from", find_source, recipe.init_from)
    else:
        return
    model, template = parts.model(), parts.template
    if model is None or template is None or (source is None and resume_from is None):
        return
    setup = setup_of_run(recipe, part_origins(recipe, parts.folders), template, model)
    start = report.attempt(what, start_stage, model, setup, source, resume_from, force)
    if start is not None:
        loaded = counted(len(start.loaded), "tensor")
        told = f"{loaded} of '{source}' fit" if source is not None else f"'{resume_from}' fits"
        report.rows.append(Row("ok", what, told))


def _resources(recipe: Recipe, parts: PlannedParts, work_dir: Path, num_processes: int, num_samples: int) -> list[Row]:
    """Steps, disk and memory.

    Args:
        num_samples: 0 where they have not been read.
    """
    schedule = recipe.schedule
    plan = StepPlan(num_samples, schedule.batch_size, schedule.accumulation, num_processes, recipe.runtime.seed)
    steps = schedule.max_steps or (plan.steps(schedule.epochs) if num_samples else None)
    epochs = steps * plan.step_size // num_samples if steps and num_samples else int(schedule.epochs)
    rows = []
    if num_samples and steps:
        rows.append(Row("ok", "steps", f"{steps:,} of {counted(plan.step_size, 'sample')}"))
    if (model := parts.model()) is not None:
        device = pick_device()
        num = num_checkpoints(schedule, steps, epochs)
        rows.append(disk_row(num, checkpoint_bytes(model), work_dir))
        rows.append(memory_row(memory_need(model, recipe, device), device, num_processes))
    return rows
