"""Features of all pictures of a recipe, made before any training needs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from vlmtool.data.conversation import Image
from vlmtool.data.dataset import BadSample
from vlmtool.data.formats.llava import read_conversations
from vlmtool.data.known_pictures import KnownPictures
from vlmtool.engine.build import build_encoder
from vlmtool.engine.device import autocast, compute_dtype, pick_device, weight_dtype
from vlmtool.engine.features import check_room, mean_views, open_store
from vlmtool.engine.planned import planned_transform
from vlmtool.models.encoders.stored import encode
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import DataError, UsageError
from vlmtool.utils.hub import local_folder
from vlmtool.utils.pixels import Pixels
from vlmtool.utils.terminal import clean, err, track

BATCH = 16  # pictures
MOST_NAMED = 20  # that cannot be read


@dataclass(frozen=True)
class Cached:
    """What was made."""

    folder: Path
    num_pictures: int
    num_new: int
    bad: tuple[BadSample, ...]
    """Pictures that cannot be read; `id` is the path as the record gives it."""


class Pictures(Dataset[Pixels | BadSample]):
    """Each distinct picture, as the encoder gets it."""

    def __init__(self, pictures: Sequence[tuple[KnownPictures, Image]]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> Pixels | BadSample:
        transform, image = self.pictures[number]
        try:
            return transform([image])
        except DataError as error:
            return BadSample(str(image.source), str(transform.image_folder), str(error).partition("\n")[0])


def cache_features(recipe: Recipe) -> Cached:
    """Encode what is not there yet; killed, the same call goes on.

    Raises:
        UsageError: the recipe keeps no features, or there is no room.
    """
    section = recipe.vision_encoder
    if section.cache is None:
        raise UsageError(
            "vision_encoder.cache: this recipe keeps no features.\n"
            "Say how: --set \"vision_encoder.cache=dict(dtype='bfloat16')\", here and in the training."
        )
    device = pick_device()
    dtype = compute_dtype(recipe.runtime.dtype, device)
    folders = {part: local_folder(path, f"{part}.path") for part, path in recipe.paths.items() if part != "llm"}
    encoder = build_encoder(recipe, folders, weight_dtype(device), device).eval()
    views = planned_transform(recipe, folders["vision_encoder"]).views
    store = open_store(section.cache, encoder, views, dtype)
    pictures = list(_pictures(recipe, lambda folder: KnownPictures(views, folder, store)).values())
    err().print(clean(check_room(store, encoder, len(pictures), mean_views(pictures))))
    loader = DataLoader(
        Pictures(pictures), batch_size=BATCH, num_workers=recipe.data.num_workers, collate_fn=lambda found: found
    )
    num_new, bad = 0, list[BadSample]()
    with torch.no_grad():
        for found in track(loader, len(pictures), "Encoding pictures", count=len):
            bad += [one for one in found if isinstance(one, BadSample)]
            new = [one for one in found if isinstance(one, Pixels) and None in one.features]
            num_new += len(new)
            if new:
                with autocast(device, dtype):
                    encode(encoder, Pixels.joined(new).to(device), store)
    return Cached(store.folder, len(pictures), num_new, tuple(bad))


def _pictures(recipe: Recipe, transform_of: Any) -> dict[tuple[str, str], tuple[KnownPictures, Image]]:
    """By folder and path, of all sets."""
    found: dict[tuple[str, str], tuple[KnownPictures, Image]] = {}
    for given in [*recipe.training_sets, *([recipe.held_out_set] if recipe.held_out_set is not None else [])]:
        folder = given.image_folder or "."
        transform = transform_of(folder)
        # A record that cannot be used is for `data check` and the training to tell.
        for conversation in read_conversations(given.path, given.image_position or "as_written", lambda *_: None):
            for image in conversation.images:
                if isinstance(image.source, str):
                    found.setdefault((folder, image.source), (transform, image))
    return found


def told(cached: Cached) -> list[str]:
    """For a person."""
    lines = [
        f"{counted(cached.num_new, 'picture')} encoded, {cached.num_pictures - cached.num_new - len(cached.bad):,} "
        f"were there: {cached.folder}"
    ]
    if cached.bad:
        lines.append(f"{counted(len(cached.bad), 'picture')} cannot be read:")
        lines += [f"  {one.reason}" for one in cached.bad[:MOST_NAMED]]
        more = "`vlmtool data check RECIPE --deep` names them all. " if len(cached.bad) > MOST_NAMED else ""
        lines.append(f"{more}Replace them, or leave their records out; data.on_bad_sample='skip' does so for a few.")
    return lines
