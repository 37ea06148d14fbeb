"""From a recipe to a runner that is ready to train. Read `build_runner` first."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage

from vlmtool.chat.generator import Generator, Request
from vlmtool.chat.transform import colours_of
from vlmtool.data.conversation import Image, user
from vlmtool.data.dataset import ScanReport
from vlmtool.data.render import Renderer
from vlmtool.data.templates.library import find_training_template
from vlmtool.data.tokenizer import image_token_id, load_tokenizer
from vlmtool.engine.device import autocast, compute_dtype, pick_device, start_process_group, weight_dtype
from vlmtool.engine.expand import expand
from vlmtool.engine.features import open_store, tell_features
from vlmtool.engine.feed import Feed, LearnedSet, build_feed, held_out_loader, train_loader
from vlmtool.engine.hooks.benchmark import BenchmarkHook, open_benchmarks
from vlmtool.engine.hooks.samples import SamplesHook
from vlmtool.engine.hooks.validation import ValidationHook
from vlmtool.engine.init_from import find_source, start_stage
from vlmtool.engine.meta import checkpoint_meta, data_origin, part_origins
from vlmtool.engine.peers import check_same
from vlmtool.engine.planned import transform_of
from vlmtool.engine.runner import VlmRunner
from vlmtool.engine.setups import setup_of_run
from vlmtool.engine.strategies.choose import make_strategy
from vlmtool.engine.strategies.data_parallel import DataParallel
from vlmtool.engine.trainable import PartSummary, check_trainable
from vlmtool.engine.watch import Watch, common_id
from vlmtool.models.attention import take_packed_rows
from vlmtool.models.build import build_beside, build_llm, build_projector, build_vision_encoder
from vlmtool.models.encoders.fused import ImageEncoder
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.imports.fit import ImportReport
from vlmtool.models.last_block import narrow_last_block
from vlmtool.models.llm import compile_blocks, use_liger
from vlmtool.models.parts import BESIDE
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.allocator import keep_freed_memory
from vlmtool.utils.hub import local_folder


@dataclass(frozen=True)
class Prepared:
    """A runner, and what is told before it starts."""

    runner: VlmRunner
    parts: list[PartSummary]
    sets: list[LearnedSet]
    held_out: ScanReport | None
    """None without a held-out file."""
    steps: int
    loaded: list[str]
    """Names of weights taken from the stage before."""
    imported: ImportReport | None = None
    """What became of the weights of another tool that the run starts from."""
    features: str | None = None
    """What the kept features take and save; None where none are kept."""


def build_runner(
    recipe: Recipe,
    name: str,
    work_dir: Path,
    launcher: str = "none",
    resume_from: Path | None = None,
    force: bool = False,
) -> Prepared:
    """Parts → model → weights of the stage before → data → plan → runner.

    Args:
        name: of the recipe, for the checkpoints' meta.
        resume_from: checkpoint to go on from, with its optimiser and place in the data.
        force: go on where the weights to start from could work but do not belong here; it is recorded.
    """
    device = pick_device()
    if device.type == "cpu":
        keep_freed_memory()
    start_process_group(launcher, device, recipe.runtime.strategy)
    dtype = compute_dtype(recipe.runtime.dtype, device)
    strategy = make_strategy(recipe, device, partial(autocast, device, dtype))
    torch.manual_seed(recipe.runtime.seed)  # the projector's and adapters' first weights, the same on every rank
    source = find_source(recipe.init_from) if recipe.init_from and resume_from is None else None
    folders = {part: local_folder(path, f"{part}.path") for part, path in recipe.paths.items()}
    origins = part_origins(recipe, folders)

    tokenizer = load_tokenizer(folders["llm"], recipe.runtime.trust_remote_code)
    template = find_training_template(recipe.llm.template, tokenizer.chat_template)
    model = build_model(recipe, folders, image_token_id(tokenizer), device)
    parts = check_trainable(model, recipe)
    start = start_stage(model, setup_of_run(recipe, origins, template, model), source, resume_from, force)

    transform = transform_of(recipe, model.vision_encoder, model.projector, folders["vision_encoder"])
    if recipe.vision_encoder.cache is not None:
        model.store = open_store(recipe.vision_encoder.cache, model.vision_encoder, transform.views, dtype)
    feed = build_feed(recipe, Renderer(tokenizer, template, transform.num_tokens), transform, model.store)
    features = tell_features(model, feed.dataset, feed.epochs) if model.store is not None else None
    origin = data_origin(recipe, feed.dataset.sizes)
    meta = checkpoint_meta(name, recipe, origins, model, template, origin, start.parents, start.forced)
    check_same({**meta, "resume_from": str(resume_from)})
    arguments = runner_arguments(recipe, work_dir, model, feed, strategy, dtype)
    runner = VlmRunner(
        **arguments, meta=meta, device=device, model=model, launcher=launcher, experiment_name=name,
        start=resume_from, force=force,
    )  # fmt: skip
    return Prepared(runner, parts, feed.sets, feed.held_out_scan, feed.steps, start.loaded, start.imported, features)


def runner_arguments(
    recipe: Recipe,
    work_dir: Path,
    model: VisionLanguageModel,
    feed: Feed,
    strategy: DataParallel,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """Plan → runner: what the recipe says, and the objects that no recipe can hold."""
    if strategy.is_sharded:
        model.blank = feed.transform.views([PILImage.new("RGB", (32, 32))])
    arguments = expand(recipe, str(work_dir), feed.steps, use_scaler=dtype is torch.float16)
    hooks = [*validation_hooks(recipe, feed), *sample_hooks(recipe, model, feed), *benchmark_hooks(recipe, model, feed)]
    return {
        **arguments,
        "custom_hooks": [*hooks, *arguments["custom_hooks"]],
        "compute_dtype": dtype,
        "strategy": strategy,
        "watch": Watch(work_dir, recipe.runtime.hang_timeout, common_id()),
        "train_dataloader": train_loader(recipe, feed),
    }


def build_model(
    recipe: Recipe, folders: dict[str, Path], image_token: int, device: torch.device
) -> VisionLanguageModel:
    """The composed model with its adapters, on the device, nothing loaded from an earlier stage yet."""
    dtype = weight_dtype(device)
    llm_section, projector_section = recipe.llm, recipe.projector
    llm = build_llm(
        folders["llm"], dtype, llm_section.quantization, llm_section.lora, llm_section.is_fully_trained, device,
        recipe.runtime.trust_remote_code, llm_section.prefix,
    )  # fmt: skip
    encoder = build_encoder(recipe, folders, dtype, device)
    width = llm.get_input_embeddings().embedding_dim
    projector = build_projector(
        projector_section.type, encoder.hidden_size, width, projector_section.options, projector_section.freeze, device,
        row_end=bool(recipe.vision_encoder.tiles),
    )  # fmt: skip
    if recipe.schedule.pack_to is not None:
        take_packed_rows(llm)
    if recipe.runtime.liger:
        use_liger(llm)
    is_narrowed = narrow_last_block(llm)
    if recipe.runtime.compile:
        compile_blocks(llm, num_left=int(is_narrowed))  # what it computes differs in size from step to step
    recomputed = {"llm": [llm], "vision_encoder": [one.model for one in encoder.encoders]}
    for part in (one for name in recipe.runtime.activation_checkpointing for one in recomputed[name]):
        part.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = VisionLanguageModel(encoder, projector, llm, image_token, recipe.schedule.neftune_alpha)
    model.is_narrowed = is_narrowed
    return model


def build_encoder(
    recipe: Recipe, folders: dict[str, Path], dtype: torch.dtype | str, device: torch.device
) -> ImageEncoder:
    """The image encoder with its adapter, or two side by side."""
    section, folder = recipe.vision_encoder, folders["vision_encoder"]
    encoder = build_vision_encoder(folder, dtype, Reading.of(section), section.lora, section.is_fully_trained, device)
    if section.beside is None:
        return encoder
    return build_beside(encoder, folders[BESIDE], dtype, colours_of(folder, folders[BESIDE]), device)


def validation_hooks(recipe: Recipe, feed: Feed) -> list[ValidationHook]:
    """Validation on this rank's share of `data.val_path`; none without it."""
    if feed.held_out is None:
        return []
    return [ValidationHook(feed.held_out, held_out_loader(recipe, feed, feed.held_out), recipe.schedule.val_every)]


def sample_hooks(recipe: Recipe, model: VisionLanguageModel, feed: Feed) -> list[SamplesHook]:
    """Sample answers during training; none without `data.sample_prompts`."""
    prompts = recipe.data.sample_prompts
    requests = [Request((user(Image(p.image), f"\n{p.question}") if p.image else user(p.question),)) for p in prompts]
    if not requests:
        return []
    return [SamplesHook(Generator(model, feed.renderer, feed.transform), requests, recipe.schedule.sample_every)]


def benchmark_hooks(recipe: Recipe, model: VisionLanguageModel, feed: Feed) -> list[BenchmarkHook]:
    """Benchmarks during training; none without `schedule.eval`."""
    benchmarks = open_benchmarks(recipe.schedule.eval)
    if not benchmarks:
        return []
    generator = Generator(model, feed.renderer, feed.transform)
    schedule = recipe.schedule
    return [BenchmarkHook(generator, benchmarks, schedule.eval_every, schedule.eval_batch_size)]
