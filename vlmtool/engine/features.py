"""Features of a frozen encoder that are kept: where, how much room they take, and what they save."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlmtool.data.conversation import Image
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.mixture import Mixture
from vlmtool.data.views import Views, preparation
from vlmtool.engine.resources import size
from vlmtool.models.encoders.fused import ImageEncoder
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.recipe.parts import FeatureCache
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import DataError, UsageError
from vlmtool.utils.feature_store import FeatureStore
from vlmtool.utils.files import write_json

NAME = 16  # characters of a hash in a folder's name
ABOUT = "about.json"
SAMPLED = 200  # pictures whose sizes are looked at, where tiles depend on them
MOST_PATCHES = 1024  # of a picture of native resolution, where nothing says
PASSES = 2  # through frozen weights with gradients: forward, and back for what comes in


def open_store(
    cache: FeatureCache, encoder: ImageEncoder, views: Views, computed_in: torch.dtype | None
) -> FeatureStore:
    """The store of what this very encoder makes of pictures prepared in this very way.

    Args:
        computed_in: mixed precision's type; None: the weights' own.

    Raises:
        UsageError: its folder cannot be written to.
    """
    about = {
        "weights": weights_hash(encoder),
        "reading": encoder.reading.said(),
        "pictures": preparation(views),
        "computed_in": str(computed_in or "the weights' type"),
        "dtype": cache.dtype,
    }
    known_by = json.dumps(about, sort_keys=True)
    folder = Path(cache.folder).expanduser() / hashlib.sha256(known_by.encode()).hexdigest()[:NAME]
    paths = [str(one.model.name_or_path) for one in encoder.encoders]  # for people: another path, the same features
    try:
        store = FeatureStore(folder, cache.dtype)
        write_json(folder / ABOUT, {"encoder": paths, **about})
    except OSError as error:
        raise UsageError(
            f"vision_encoder.cache: '{folder}' cannot be written to: {error.strerror}.\nName another cache.folder."
        ) from error
    return store


def weights_hash(encoder: nn.Module) -> str:
    """Of an encoder as it is in memory: names, types and numbers."""
    found = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def tell_features(model: VisionLanguageModel, dataset: Mixture, epochs: float) -> str:
    """What keeping the features of a run takes and saves, before it starts.

    Raises:
        UsageError: there is not enough room.
    """
    assert model.store is not None
    pictures: dict[tuple[Path, Any], tuple[ImageTransform, Image]] = {}
    uses = 0
    for part in dataset.parts:
        for image in (image for conversation in part.conversations for image in conversation.images):
            pictures.setdefault((part.transform.image_folder, image.source), (part.transform, image))
            uses += 1
    views = mean_views(list(pictures.values()))
    told = check_room(model.store, model.vision_encoder, len(pictures), views)
    share = share_of_encoder(model, sum(dataset.lengths) / len(dataset), uses * views / len(dataset))
    comes_again = epochs > 1 or uses > len(pictures) or len(model.store)
    when = "once each is known" if comes_again else "in another run: here each is met once"
    return f"{told}. By its products the encoder is {100 * share:.0f} % of a step, which is saved {when}."


def mean_views(pictures: Sequence[tuple[ImageTransform, Image]]) -> float:
    """Views of a picture, on average over the first of them; one that cannot be read is told where it is used."""
    counts = []
    for transform, image in pictures[:SAMPLED]:
        with suppress(DataError):
            counts.append(transform.views.num_views(transform.size(image) if transform.views.needs_size else (0, 0)))
    return sum(counts) / max(1, len(counts))


def check_room(store: FeatureStore, encoder: ImageEncoder, num_pictures: int, views: float) -> str:
    """What the features take.

    Args:
        views: of a picture, on average.

    Raises:
        UsageError: there is not enough room.
    """
    tokens = encoder.num_patches or encoder.reading.max_patches or MOST_PATCHES
    needed = num_pictures * views * store.bytes_each(1, tokens, encoder.hidden_size)
    free = shutil.disk_usage(store.folder).free
    there = needed * min(1.0, len(store) / max(1, num_pictures))
    told = f"Features of {counted(num_pictures, 'picture')}: {size(needed)}, with {size(free)} free, in {store.folder}"
    if needed - there > free:
        raise UsageError(
            f"vision_encoder.cache: {told}.\n"
            "Take cache.dtype='int8', name a cache.folder with more room, or leave the cache out."
        )
    return f"{told}, which holds {len(store):,} so far"


def share_of_encoder(model: VisionLanguageModel, tokens: float, views: float) -> float:
    """The encoder's part of the products of a training step, by counting weights.

    Args:
        tokens: of a sample.
        views: of a sample's pictures.
    """
    encoder = sum(p.numel() for p in model.vision_encoder.parameters()) * (model.vision_encoder.num_patches or 0)
    tables = sum(p.numel() for p in model.llm.get_input_embeddings().parameters())
    llm = (sum(p.numel() for p in model.llm.parameters()) - tables) * tokens
    forward = encoder * views
    return forward / (forward + PASSES * llm) if forward else 0.0
