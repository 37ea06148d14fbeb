"""An encoder in front of which features are looked up, and behind which they are kept."""

from dataclasses import replace

import torch
from torch import Tensor

from vlmtool.models.encoders.fused import ImageEncoder
from vlmtool.utils.feature_store import Features, FeatureStore
from vlmtool.utils.pixels import Pixels


def encode(encoder: ImageEncoder, pixels: Pixels, store: FeatureStore | None) -> list[Tensor]:
    """As `encoder(pixels)`, but only what is not known is computed.

    Returns:
        Patch features as tensors (n, N, D) whose n sum up to all views: one, or one for each picture.
    """
    found = [features for features in encoded(encoder, pixels, store).features if features is not None]
    if len({features.shape[1] for features in found}) > 1:  # native resolution
        return found
    return [torch.cat([features.to(found[0].dtype) for features in found])]


def encoded(encoder: ImageEncoder, pixels: Pixels, store: FeatureStore | None) -> Pixels:
    """The pictures with the features of all of them. What is not known is computed, and kept where there is a store.

    Features that are computed now are rounded as the kept ones are, so that a run does not depend on what was there.
    """
    unknown, nothing = pixels.unknown, (None,) * len(pixels)
    made = iter(_by_picture(encoder(unknown), unknown) if len(unknown) else ())
    found: list[Tensor] = []
    for key, known, layout in zip(pixels.keys or nothing, pixels.features or nothing, pixels.layouts, strict=True):
        if known is None:
            known = next(made)
            if store is not None:
                known = store.rounded(known)
                if key is not None:
                    store.put(key, Features(known, layout))
        found.append(known)
    return replace(pixels, values=pixels.values[:0], features=tuple(found))


def _by_picture(made: list[Tensor], pixels: Pixels) -> list[Tensor]:
    """(V_i, N, D) of each picture."""
    if len(made) == len(pixels):
        return made
    return list(made[0].split([1 + rows * columns for rows, columns, _, _ in pixels.layouts.tolist()]))
