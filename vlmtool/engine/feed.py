"""From a recipe to what a run learns from: samples, the plan of which make which step, and batches."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from vlmtool.data.collate import Collator
from vlmtool.data.dataset import BadSample, ConversationDataset, ScanReport
from vlmtool.data.formats.llava import read_conversations
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.render import Renderer
from vlmtool.data.sampler import StepPlan, StepSampler
from vlmtool.engine.signals import STOPPING
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.distributed import rank, world_size
from vlmtool.utils.errors import DataError


@dataclass(frozen=True)
class Feed:
    """What a run learns from and is held against, read and looked through."""

    renderer: Renderer
    transform: ImageTransform
    collate: Collator
    dataset: ConversationDataset
    scan: ScanReport
    held_out: ConversationDataset | None
    held_out_scan: ScanReport | None
    plan: StepPlan
    steps: int
    """Optimiser steps of the run."""


def build_feed(recipe: Recipe, renderer: Renderer, transform: ImageTransform) -> Feed:
    """Data → plan. Every sample is rendered once, which takes long where they are many."""
    dataset = build_dataset(recipe, recipe.data.path, renderer, transform)
    scan = dataset.scan()
    held_out, held_out_scan = None, None
    if recipe.data.val_path is not None:
        held_out = build_dataset(recipe, recipe.data.val_path, renderer, transform)
        held_out_scan = held_out.scan("Reading validation samples")
    plan = step_plan(recipe, dataset)
    steps = recipe.schedule.max_steps or plan.steps(recipe.schedule.epochs)
    collate = Collator(renderer.tokenizer.pad_token_id or 0, renderer.image_token_id)
    return Feed(renderer, transform, collate, dataset, scan, held_out, held_out_scan, plan, steps)


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


def train_loader(recipe: Recipe, feed: Feed) -> DataLoader[Any]:
    """Micro-batches of this rank, made by workers while the model runs."""
    workers = recipe.data.num_workers
    return DataLoader(
        feed.dataset,
        batch_sampler=StepSampler(feed.plan, rank(), 0, feed.steps),
        num_workers=workers,
        collate_fn=feed.collate,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        generator=own_generator(),
        worker_init_fn=leave_stopping_to_the_run,
    )


def held_out_loader(recipe: Recipe, feed: Feed, held_out: ConversationDataset) -> DataLoader[Any]:
    """This rank's share of the held-out samples, in batches."""
    share = Subset(held_out, range(rank(), len(held_out), world_size()))
    size = recipe.schedule.batch_size
    return DataLoader(share, batch_size=size, collate_fn=feed.collate, generator=own_generator())


def leave_stopping_to_the_run(_: int) -> None:
    """A cluster sends its signal to every process; the run needs its workers until the step is done and saved."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def own_generator() -> torch.Generator:
    """Random numbers for a loader's workers; without it each pass would draw from the stream that dropout uses."""
    return torch.Generator().manual_seed(0)
