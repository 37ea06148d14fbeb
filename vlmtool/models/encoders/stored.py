"""An encoder in front of which features are looked up, and behind which they are kept."""

import torch
from torch import Tensor

from vlmtool.models.encoders.fused import ImageEncoder
from vlmtool.utils.feature_store import Features, FeatureStore
from vlmtool.utils.pixels import Pixels


def encode(encoder: ImageEncoder, pixels: Pixels, store: FeatureStore) -> list[Tensor]:
    """As `encoder(pixels)`, but only what is not known is computed, and kept.

    Features that are computed now are rounded as the kept ones are, so that a run does not depend on what was there.

    Returns:
        Patch features as tensors (n, N, D) whose n sum up to all views: one, or one for each picture.
    """
    unknown = pixels.unknown
    made = iter(_by_picture(encoder(unknown), unknown) if len(unknown) else ())
    found: list[Tensor] = []
    for key, known, layout in zip(pixels.keys, pixels.features, pixels.layouts, strict=True):
        if known is None:
            known = store.rounded(next(made))
            if key is not None:
                store.put(key, Features(known, layout))
        found.append(known)
    if len({features.shape[1] for features in found}) > 1:  # native resolution
        return found
    return [torch.cat([features.to(found[0].dtype) for features in found])]


def _by_picture(made: list[Tensor], pixels: Pixels) -> list[Tensor]:
    """(V_i, N, D) of each picture."""
    if len(made) == len(pixels):
        return made
    return list(made[0].split([1 + rows * columns for rows, columns, _, _ in pixels.layouts.tolist()]))
