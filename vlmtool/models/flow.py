"""One picture's way through encoder and projector, on torch's meta device: shapes alone, nothing is computed.

Classes of the user's own are what this is for. One whose way depends on values, which the meta device has not, is left
to the first step; so are encoders of native resolution.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlmtool.models.encoders.fused import ImageEncoder
from vlmtool.models.projectors.base import Projector
from vlmtool.utils.errors import RecipeError, VlmtoolError
from vlmtool.utils.imports import told
from vlmtool.utils.pixels import Pixels


def picture_features(encoder: ImageEncoder) -> Tensor | None:
    """What the encoder gives of a picture of its size, (1, N, D_vision); None where that cannot be told.

    Args:
        encoder: on the meta device.

    Raises:
        RecipeError: it cannot read such a picture, or gives something else than it says.
    """
    side, num_patches = encoder.image_size, encoder.num_patches
    if side is None or num_patches is None:
        return None
    own = encoder.model.config.image_size
    found = _shapes(
        lambda picture: torch.cat(list(encoder(Pixels.one_view_each(picture)))),
        torch.empty(1, 3, side, side, device="meta"),
        f"vision_encoder: {type(encoder).__name__} cannot read pictures of {side} px",
        f"Drop vision_encoder.image_size: its checkpoint is of {own} px." if side != own else "Mend its forward.",
    )
    wanted = (1, num_patches, encoder.hidden_size)
    _check_shape(found, wanted, f"vision_encoder: {type(encoder).__name__}", "num_patches and hidden_size")
    return found


def check_tokens(projector: Projector, features: Tensor) -> None:
    """The projector makes as many tokens of these features as it says.

    Args:
        projector: on the meta device.
        features: (1, N, D_vision), likewise.

    Raises:
        RecipeError: it cannot read them, or gives something else than it says.
    """
    name, (_, num_patches, width) = type(projector).__name__, features.shape
    found = _shapes(
        projector,
        features.float(),
        f"projector: {name} cannot read {num_patches} patches of {width} features",
        "Mend its forward, or let its num_tokens refuse this number of patches.",
    )
    wanted = (1, projector.num_tokens(num_patches), projector.llm_hidden_size)
    _check_shape(found, wanted, f"projector: {name}", "num_tokens and llm_hidden_size")


def _shapes(part: Callable[[Tensor], Any], given: Tensor, message: str, remedy: str) -> Tensor | None:
    """What `part` makes of `given`; None where that depends on values."""
    try:
        with torch.device("meta"), torch.no_grad():
            return part(given)
    except VlmtoolError:
        raise
    except Exception as error:  # it may be the user's own, which may raise anything
        if isinstance(error, NotImplementedError) or "meta" in str(error):
            return None
        raise RecipeError(f"{message}: {told(error)}\n{remedy}") from error


def _check_shape(found: Tensor | None, wanted: tuple[int, ...], who: str, says: str) -> None:
    if found is not None and tuple(found.shape) != wanted:
        raise RecipeError(
            f"{who} gives a tensor {tuple(found.shape)} for one picture, but its {says} say {wanted}.\n"
            "Make both say the same."
        )
