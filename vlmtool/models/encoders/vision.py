"""Image encoders of transformers (CLIP, SigLIP, DINOv2, …) read at one of their layers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    CLIPVisionModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2VisionModel,
    SiglipVisionModel,
)

from vlmtool.models.complete import check_complete
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.pickled import check_pickled_weights
from vlmtool.utils.errors import UsageError, did_you_mean
from vlmtool.utils.pixels import Pixels
from vlmtool.utils.remote_code import hub_kernel, needs_remote_code

# model_type in config.json → class. A checkpoint of the whole CLIP or SigLIP gives its vision half. SigLIP 2 of one
# size is a "siglip"; a "siglip2" is of native resolution.
VISION_CLASSES: dict[str, type[PreTrainedModel]] = {
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
    "siglip": SiglipVisionModel,
    "siglip_vision_model": SiglipVisionModel,
    "siglip2": Siglip2VisionModel,
    "siglip2_vision_model": Siglip2VisionModel,
    "dinov2": Dinov2Model,
    "dinov2_with_registers": Dinov2WithRegistersModel,
}
NATIVE = "siglip2_vision_model"


def vision_config(path: Path) -> PreTrainedConfig:
    """Config of the vision half of a checkpoint."""
    config = read_config(path)
    return getattr(config, "vision_config", config)


def vision_class(path: Path) -> type[PreTrainedModel]:
    """The transformers class that serves the checkpoint.

    Raises:
        UsageError: none of ours does.
    """
    model_type = read_config(path).model_type
    if model_type not in VISION_CLASSES:
        raise UsageError(
            f"{path}: a '{model_type}' is not an image encoder that vlmtool knows."
            f"{did_you_mean(model_type, VISION_CLASSES)}\nKnown: {_known()}."
        )
    return VISION_CLASSES[model_type]


def read_config(path: Path) -> PreTrainedConfig:
    """Config of a checkpoint; code that it brings is never run, since only classes of transformers serve as encoders.

    Raises:
        UsageError: it needs such code.
    """
    if (kernel := hub_kernel(path)) is not None:
        raise UsageError(
            f"{path}: its config.json asks for code from the hub, '{kernel}', which vlmtool does not run.\n"
            "Take that implementation out of config.json."
        )
    try:
        # False, not None: with None transformers asks at the terminal, and runs the code on "y".
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except ValueError as error:
        if needs_remote_code(error):
            raise UsageError(
                f"{path}: this image encoder needs code of its own, which vlmtool does not run.\nKnown: {_known()}."
            ) from error
        raise


def _known() -> str:
    return ", ".join(sorted({c.__name__ for c in VISION_CLASSES.values()}))


def num_prefix_tokens(config: PreTrainedConfig) -> int:
    """Hidden states before the first patch's: CLIP and DINOv2 have a CLS token, some DINOv2 registers, SigLIP none."""
    has_cls = config.model_type in ("clip_vision_model", "dinov2", "dinov2_with_registers")
    return int(has_cls) + getattr(config, "num_register_tokens", 0)


class VisionEncoder(nn.Module):
    """A transformers vision model up to the layer that the projector reads; blocks above it are not kept.

    Args:
        model: the vision model; its list of blocks is shortened in place.
    """

    def __init__(self, model: PreTrainedModel, reading: Reading | None = None) -> None:
        super().__init__()
        self.model = model
        self.reading = reading = reading or Reading()
        self.num_blocks = keep_blocks(model, reading.select_layer)
        prefix = num_prefix_tokens(model.config)
        self.num_dropped = {"full": 0, "patch": 1, "auto": prefix}[reading.select_strategy]
        check_reading(model.config, reading)

    @property
    def encoders(self) -> "tuple[VisionEncoder, ...]":
        """Itself; two where a pair takes its place."""
        return (self,)

    @property
    def hidden_size(self) -> int:
        """D_vision."""
        return self.model.config.hidden_size

    @property
    def is_native(self) -> bool:
        """It takes pictures in their own proportions, as rows of patches."""
        return self.model.config.model_type == NATIVE

    @property
    def image_size(self) -> int | None:
        """Side in pixels of what it sees; None with native resolution."""
        return None if self.is_native else self.reading.image_size or self.model.config.image_size

    @property
    def num_patches(self) -> int | None:
        """N, patch features per view that the projector gets; None with native resolution, where pictures differ."""
        config = self.model.config
        if self.image_size is None:
            return None
        return (self.image_size // config.patch_size) ** 2 + num_prefix_tokens(config) - self.num_dropped

    def forward(self, pixels: Pixels) -> list[Tensor]:
        """Patch features as tensors (n, N, D_vision) whose n sum up to all views: one, or one for each picture."""
        if self.is_native:
            return self._native(pixels)
        other_size = {"interpolate_pos_encoding": True} if self._interpolates() else {}
        selected = self._selected(pixel_values=pixels.values.to(self.model.dtype), **other_size)
        return [selected[:, self.num_dropped :]]

    def _native(self, pixels: Pixels) -> list[Tensor]:
        """Each picture's own patches; what pads its row is hidden from them."""
        shapes = pixels.layouts[:, :2]
        counts = shapes.prod(1).tolist()
        places = torch.arange(pixels.values.shape[1], device=pixels.values.device)
        mask = (places < torch.tensor(counts, device=places.device)[:, None]).int()
        selected = self._selected(
            pixel_values=pixels.values.to(self.model.dtype), pixel_attention_mask=mask, spatial_shapes=shapes
        )
        return [row[None, :count] for row, count in zip(selected, counts, strict=True)]

    def _selected(self, **inputs: Any) -> Tensor:
        return self.model(**inputs, output_hidden_states=True).hidden_states[self.num_blocks]

    def _interpolates(self) -> bool:
        """Position embeddings are made for another size; DINOv2 looks after it by itself."""
        config = self.model.config
        return self.image_size != config.image_size and not config.model_type.startswith("dinov2")


def check_reading(config: PreTrainedConfig, reading: Reading) -> None:
    """The encoder can be read so.

    Raises:
        UsageError: it cannot.
    """
    native = config.model_type == NATIVE
    if native and (reading.tiles or reading.image_size):
        key = "tiles" if reading.tiles else "image_size"
        raise UsageError(
            f"vision_encoder.{key}: this encoder takes pictures in their own proportions.\n"
            "Drop the key; vision_encoder.max_patches says how many patches a picture may have."
        )
    if native and reading.select_strategy == "patch":
        raise UsageError(
            "vision_encoder.select_strategy = 'patch': this encoder's first token is a patch.\nDrop the key."
        )
    if not native and reading.max_patches:
        raise UsageError(
            "vision_encoder.max_patches: this encoder sees squares of one size.\n"
            "Drop the key, or take an encoder of native resolution (SigLIP 2 NaFlex)."
        )


def keep_blocks(model: PreTrainedModel, select_layer: int) -> int:
    """Drop the blocks above `select_layer`, whose output nobody reads; returns how many are left.

    LLaVA reads layer -2 because its ScienceQA ablation (arXiv 2304.08485) scored higher there than at the last.
    """
    name, blocks = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList))
    count = len(blocks)
    kept = select_layer if select_layer >= 0 else count + 1 + select_layer
    if not 0 <= kept <= count:
        raise UsageError(
            f"vision_encoder.select_layer = {select_layer}: the encoder has {count} blocks.\n"
            f"Give a number from {-count - 1} to {count}; -2 is the block before the last."
        )
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, blocks[:kept])
    return kept


def load_vision_model(path: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    """The vision half of a checkpoint, with all its blocks, in eval mode.

    Raises:
        UsageError: not an encoder that vlmtool knows.
        CheckpointError: weights are missing, or ask for more than tensors.
    """
    check_pickled_weights(path)
    model, loading = vision_class(path).from_pretrained(
        path, config=vision_config(path), dtype=dtype, output_loading_info=True
    )
    check_complete(path, loading["missing_keys"])
    return model
