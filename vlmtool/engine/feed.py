"""From a recipe to what a run learns from: samples, the plan of which make which step, and batches."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from vlmtool.data.collate import Collator
from vlmtool.data.dataset import BadSample, ConversationDataset, ScanReport
from vlmtool.data.formats.llava import read_conversations
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.known_pictures import KnownPictures
from vlmtool.data.large import LargeDataset
from vlmtool.data.mixture import Mixture
from vlmtool.data.render import Renderer
from vlmtool.data.sampler import Share, StepPlan, StepSampler
from vlmtool.data.templates.library import SET_TEMPLATE, find_training_template
from vlmtool.engine.signals import STOPPING
from vlmtool.engine.tables import is_large, open_large
from vlmtool.recipe.schema import DataSet, Recipe
from vlmtool.utils.distributed import rank, world_size
from vlmtool.utils.errors import DataError
from vlmtool.utils.feature_store import FeatureStore


@dataclass(frozen=True)
class LearnedSet:
    """A training set, read and looked through."""

    path: str
    scan: ScanReport
    drawn: int
    """Of its samples, in an epoch."""


@dataclass(frozen=True)
class Feed:
    """What a run learns from and is held against, read and looked through."""

    renderer: Renderer
    transform: ImageTransform
    collate: Collator
    dataset: Mixture
    sets: list[LearnedSet]
    held_out: ConversationDataset | None
    held_out_scan: ScanReport | None
    plan: StepPlan
    steps: int
    """Optimiser steps of the run."""

    @property
    def epochs(self) -> float:
        """Passes over the data that these steps make."""
        return self.steps * self.plan.step_size / self.plan.epoch_size


def build_feed(
    recipe: Recipe, renderer: Renderer, transform: ImageTransform, store: FeatureStore | None = None
) -> Feed:
    """Data → plan. Every sample is rendered once, which takes long where they are many.

    Args:
        renderer, transform: for prompts and held-out samples; a training set may have another template and folder.
        store: of features of the samples' pictures.
    """
    dataset = Mixture([build_dataset(recipe, given, renderer, transform, store) for given in recipe.training_sets])
    scans = dataset.scan()
    held_out, held_out_scan = None, None
    if recipe.held_out_set is not None:
        held_out = build_dataset(recipe, recipe.held_out_set, renderer, transform, store)
        held_out_scan = held_out.scan("Reading validation samples")
    counts = recipe.data.sampler == "length" or recipe.schedule.pack_to is not None
    plan = step_plan(recipe, dataset.sizes, world_size(), tuple(dataset.lengths) if counts else ())
    drawn = zip(dataset.parts, scans, plan.shares, strict=True)
    sets = [LearnedSet(part.name, scan, share.drawn) for part, scan, share in drawn]
    steps = recipe.schedule.max_steps or plan.steps(recipe.schedule.epochs)
    packs = recipe.schedule.pack_to is not None
    collate = Collator(renderer.tokenizer.pad_token_id or 0, renderer.image_token_id, packs)
    return Feed(renderer, transform, collate, dataset, sets, held_out, held_out_scan, plan, steps)


def build_dataset(
    recipe: Recipe,
    given: DataSet,
    renderer: Renderer,
    transform: ImageTransform,
    store: FeatureStore | None = None,
) -> ConversationDataset:
    """The samples of a set.

    Args:
        given: one of the recipe's, with nothing left to a default.
        store: of features of its pictures.
    """
    own_renderer, own_transform = showing(recipe, given, renderer, transform)
    if store is not None:
        own_transform = KnownPictures(own_transform.views, own_transform.image_folder, store)
    bad: list[BadSample] | None = [] if recipe.data.on_bad_sample == "skip" else None
    if is_large(given):
        counted = open_large(recipe, given, own_renderer, own_transform)
        return LargeDataset(*counted, own_renderer, own_transform, recipe.data.max_length, bad, given.path)
    conversations = list(read_conversations(given.path, given.image_position or "as_written", _noting(bad)))
    return ConversationDataset(conversations, own_renderer, own_transform, recipe.data.max_length, bad, given.path)


def showing(
    recipe: Recipe, given: DataSet, renderer: Renderer, transform: ImageTransform
) -> tuple[Renderer, ImageTransform]:
    """How samples of a set are rendered and its pictures shown: as all are, with its own template and image folder.

    Raises:
        UsageError: there is no such template. RecipeError: it does not mark the answers.
    """
    template = renderer.template
    if given.template != recipe.llm.template:
        template = find_training_template(given.template, None, SET_TEMPLATE)
    own = ImageTransform(transform.views, given.image_folder or ".")
    return Renderer(renderer.tokenizer, template, own.num_tokens), own


def _noting(bad: list[BadSample] | None) -> Callable[[str, str, DataError], None] | None:
    """What the reader calls with a record that cannot be used; None: it raises."""
    if bad is None:
        return None
    return lambda origin, sample_id, error: bad.append(BadSample(sample_id, origin, str(error).partition("\n")[0]))


def step_plan(recipe: Recipe, sizes: Sequence[int], num_processes: int, lengths: tuple[int, ...] = ()) -> StepPlan:
    """Which samples make which step.

    Args:
        sizes: samples of each training set.
        lengths: tokens of each sample, where they are known and matter.
    """
    return StepPlan(
        shares=tuple(Share(size, given.weight) for size, given in zip(sizes, recipe.training_sets, strict=True)),
        batch_size=recipe.schedule.batch_size,
        accumulation=recipe.schedule.accumulation,
        world_size=num_processes,
        seed=recipe.runtime.seed,
        lengths=lengths,
        by_length=recipe.data.sampler == "length",
        pack_to=recipe.schedule.pack_to,
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
