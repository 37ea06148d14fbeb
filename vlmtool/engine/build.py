"""From a recipe to a runner that is ready to train. Read `build_runner` first."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from vlmtool.chat.generator import Generator, Request
from vlmtool.data.collate import Collator
from vlmtool.data.conversation import Image, user
from vlmtool.data.dataset import BadSample, ConversationDataset, ScanReport
from vlmtool.data.formats.llava import read_conversations
from vlmtool.data.image_transform import ImageTransform, load_image_processor
from vlmtool.data.render import Renderer
from vlmtool.data.sampler import StepPlan, StepSampler
from vlmtool.data.templates.library import find_training_template
from vlmtool.data.tokenizer import image_token_id, load_tokenizer
from vlmtool.engine.device import compute_dtype, pick_device, start_process_group, weight_dtype
from vlmtool.engine.expand import expand
from vlmtool.engine.hooks.samples import SamplesHook
from vlmtool.engine.hooks.validation import ValidationHook
from vlmtool.engine.init_from import find_source, setup_of_run, start_stage
from vlmtool.engine.meta import checkpoint_meta, data_origin, part_origins
from vlmtool.engine.runner import VlmRunner
from vlmtool.engine.signals import STOPPING
from vlmtool.engine.trainable import PartSummary, check_trainable
from vlmtool.engine.watch import Watch
from vlmtool.models.build import build_llm, build_projector, build_vision_encoder
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.distributed import rank, world_size
from vlmtool.utils.errors import DataError
from vlmtool.utils.hub import local_folder


@dataclass(frozen=True)
class Prepared:
    """A runner, and what is told before it starts."""

    runner: VlmRunner
    parts: list[PartSummary]
    scan: ScanReport
    steps: int
    loaded: list[str]
    """Names of weights taken from the stage before."""


def build_runner(
    recipe: Recipe,
    name: str,
    work_dir: Path,
    launcher: str = "none",
    resume_from: Path | None = None,
    force: bool = False,
) -> Prepared:
    """Parts → model → data → plan → runner.

    Args:
        name: of the recipe, for the checkpoints' meta.
        resume_from: checkpoint to go on from, with its optimiser and place in the data.
        force: go on where the weights to start from could work but do not belong here; it is recorded.
    """
    device = pick_device()
    start_process_group(launcher, device)
    torch.manual_seed(recipe.runtime.seed)  # the projector's and adapters' first weights, the same on every rank
    source = find_source(recipe.init_from) if recipe.init_from and resume_from is None else None
    folders = {part: local_folder(getattr(recipe, part).path, f"{part}.path") for part in ("llm", "vision_encoder")}
    origins = part_origins(recipe, folders)

    tokenizer = load_tokenizer(folders["llm"], recipe.runtime.trust_remote_code)
    template = find_training_template(recipe.llm.template, tokenizer.chat_template)
    model = build_model(recipe, folders, image_token_id(tokenizer), device)
    parts = check_trainable(model, recipe)
    start = start_stage(model, setup_of_run(recipe, origins, template, model), source, resume_from, force)

    transform = ImageTransform(
        load_image_processor(folders["vision_encoder"]),
        model.tokens_per_image,
        recipe.data.pad_to_square,
        recipe.data.image_folder,
    )
    renderer = Renderer(tokenizer, template, transform.num_tokens)
    dataset = build_dataset(recipe, recipe.data.path, renderer, transform)
    scan = dataset.scan()
    plan = step_plan(recipe, dataset)
    steps = recipe.schedule.max_steps or plan.steps(recipe.schedule.epochs)
    collate = Collator(tokenizer.pad_token_id or 0, renderer.image_token_id)

    dtype = compute_dtype(recipe.runtime.dtype, device)
    arguments = expand(recipe, str(work_dir), steps, use_scaler=dtype is torch.float16)
    hooks = [*validation_hooks(recipe, renderer, transform, collate), *sample_hooks(recipe, model, renderer, transform)]
    arguments["custom_hooks"] = [*hooks, *arguments["custom_hooks"]]
    runner = VlmRunner(
        **arguments,
        meta=checkpoint_meta(
            name, recipe, origins, model, template, data_origin(recipe, len(dataset)), start.parents, start.forced
        ),
        device=device,
        compute_dtype=dtype,
        watch=Watch(work_dir, recipe.runtime.hang_timeout),
        model=model,
        train_dataloader=train_loader(recipe, dataset, StepSampler(plan, rank(), 0, steps), collate),
        launcher=launcher,
        resume=resume_from is not None,
        load_from=str(resume_from) if resume_from else None,
        experiment_name=name,
    )
    return Prepared(runner, parts, scan, steps, start.loaded)


def build_model(
    recipe: Recipe, folders: dict[str, Path], image_token: int, device: torch.device
) -> VisionLanguageModel:
    """The composed model with its adapters, on the device, nothing loaded from an earlier stage yet."""
    dtype = weight_dtype(device)
    llm_section, encoder_section, projector_section = recipe.llm, recipe.vision_encoder, recipe.projector
    llm = build_llm(
        folders["llm"], dtype, llm_section.quantization, llm_section.lora, llm_section.is_fully_trained, device,
        recipe.runtime.trust_remote_code,
    )  # fmt: skip
    encoder = build_vision_encoder(
        folders["vision_encoder"], dtype, encoder_section.select_layer, encoder_section.select_strategy,
        encoder_section.lora, encoder_section.is_fully_trained, device,
    )  # fmt: skip
    width = llm.get_input_embeddings().embedding_dim
    projector = build_projector(
        projector_section.type, encoder.hidden_size, width, projector_section.options, projector_section.freeze, device
    )
    if recipe.runtime.activation_checkpointing:
        llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return VisionLanguageModel(encoder, projector, llm, image_token)


def build_dataset(recipe: Recipe, path: str, renderer: Renderer, transform: ImageTransform) -> ConversationDataset:
    """The samples of a file."""
    bad: list[BadSample] | None = [] if recipe.data.on_bad_sample == "skip" else None
    conversations = list(read_conversations(path, recipe.data.image_position, _noting(bad)))
    return ConversationDataset(conversations, renderer, transform, recipe.data.max_length, bad)


def _noting(bad: list[BadSample] | None) -> Callable[[str, str, DataError], None] | None:
    """What the reader calls with a record that cannot be used; None: it raises."""
    if bad is None:
        return None
    return lambda origin, sample_id, error: bad.append(BadSample(sample_id, origin, str(error).partition("\n")[0]))


def step_plan(recipe: Recipe, dataset: ConversationDataset) -> StepPlan:
    """Which samples make which step."""
    by_length = recipe.data.sampler == "length"
    return StepPlan(
        num_samples=len(dataset),
        batch_size=recipe.schedule.batch_size,
        accumulation=recipe.schedule.accumulation,
        world_size=world_size(),
        seed=recipe.runtime.seed,
        lengths=tuple(dataset.lengths) if by_length else (),
        by_length=by_length,
    )


def train_loader(
    recipe: Recipe, dataset: ConversationDataset, sampler: StepSampler, collate: Callable[..., Any]
) -> DataLoader[Any]:
    """Micro-batches of this rank, made by workers while the model runs."""
    workers = recipe.data.num_workers
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        generator=own_generator(),
        worker_init_fn=leave_stopping_to_the_run,
    )


def leave_stopping_to_the_run(_: int) -> None:
    """A cluster sends its signal to every process; the run needs its workers until the step is done and saved."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def own_generator() -> torch.Generator:
    """Random numbers for a loader's workers; without it each pass would draw from the stream that dropout uses."""
    return torch.Generator().manual_seed(0)


def validation_hooks(
    recipe: Recipe, renderer: Renderer, transform: ImageTransform, collate: Callable[..., Any]
) -> list[ValidationHook]:
    """Validation on this rank's share of `data.val_path`; none without it."""
    if recipe.data.val_path is None:
        return []
    dataset = build_dataset(recipe, recipe.data.val_path, renderer, transform)
    dataset.scan("Reading validation samples")
    share = Subset(dataset, range(rank(), len(dataset), world_size()))
    loader = DataLoader(share, batch_size=recipe.schedule.batch_size, collate_fn=collate, generator=own_generator())
    return [ValidationHook(loader, recipe.schedule.val_every)]


def sample_hooks(
    recipe: Recipe, model: VisionLanguageModel, renderer: Renderer, transform: ImageTransform
) -> list[SamplesHook]:
    """Sample answers during training; none without `data.sample_prompts`."""
    prompts = recipe.data.sample_prompts
    requests = [Request((user(Image(p.image), f"\n{p.question}") if p.image else user(p.question),)) for p in prompts]
    if not requests:
        return []
    return [SamplesHook(Generator(model, renderer, transform), requests, recipe.schedule.sample_every)]
