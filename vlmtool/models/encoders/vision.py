"""Image encoders of transformers (CLIP, SigLIP, DINOv2, …) read at one of their layers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from vlmtool.models.complete import check_complete
from vlmtool.models.encoders.checkpoint import check_no_kernel, inner_weights, vision_class, vision_config
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.legacy.load import load_native
from vlmtool.models.pickled import check_pickled_weights
from vlmtool.utils.errors import RecipeError, UsageError
from vlmtool.utils.imports import import_class
from vlmtool.utils.pixels import Pixels

NATIVE = "siglip2_vision_model"


class VisionEncoder(nn.Module):
    """A transformers vision model up to the layer that the projector reads; blocks above it are not kept.

    A subclass reads other checkpoints: it names their class and what stands before the first patch; where the model
    does not count in squares of patches, also `num_patches`, and where it gives no `hidden_states`, `forward`.

    Args:
        model: the vision model; its list of blocks is shortened in place.
    """

    @classmethod
    def model_class(cls, path: Path) -> type[PreTrainedModel]:
        """The class that reads the checkpoint at `path`, and whose first ModuleList holds the blocks.

        Raises:
            UsageError: there is none.
        """
        return vision_class(path)

    @classmethod
    def num_prefix_tokens(cls, config: PreTrainedConfig) -> int:
        """Hidden states before the first patch's: CLIP and DINOv2 have a CLS token, some DINOv2 registers, SigLIP none.

        Args:
            config: of the model.
        """
        has_cls = config.model_type in ("clip_vision_model", "dinov2", "dinov2_with_registers")
        return int(has_cls) + getattr(config, "num_register_tokens", 0)

    @classmethod
    def model_config(cls, path: Path) -> PreTrainedConfig:
        """Config of the checkpoint at `path`; of a whole CLIP or SigLIP, its vision half's; of a LLaVA, its encoder's.

        Raises:
            UsageError: no class reads it, or it sends for code.
        """
        model_class = cls.model_class(path)
        check_no_kernel(path)
        return vision_config(path) or model_class.config_class.from_pretrained(path)

    @classmethod
    def load_model(cls, path: Path, dtype: torch.dtype | str) -> PreTrainedModel:
        """The model at `path` with its weights, all its blocks, in eval mode.

        Raises:
            UsageError: no class reads it.
            CheckpointError: weights are missing, or ask for more than tensors.
        """
        check_pickled_weights(path)
        model_class, config = cls.model_class(path), cls.model_config(path)
        if (inner := inner_weights(path, model_class)) is not None:
            return load_native(path, model_class, config, inner, dtype=dtype)
        model, loading = model_class.from_pretrained(path, config=config, dtype=dtype, output_loading_info=True)
        check_complete(path, loading["missing_keys"])
        return model

    @classmethod
    def empty_model(cls, path: Path) -> PreTrainedModel:
        """The model at `path` on the meta device: shapes without weights."""
        with torch.device("meta"):
            return cls.model_class(path)(cls.model_config(path))

    def __init__(self, model: PreTrainedModel, reading: Reading | None = None) -> None:
        super().__init__()
        self.model = model
        self.reading = reading = reading or Reading()
        self.num_blocks = keep_blocks(model, reading.select_layer)
        prefix = self.num_prefix_tokens(model.config)
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
        return (self.image_size // config.patch_size) ** 2 + self.num_prefix_tokens(config) - self.num_dropped

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
    named = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not named:
        raise UsageError(
            f"{type(model).__name__} has no list of blocks (nn.ModuleList), so that no layer of it can be selected.\n"
            "Keep its blocks in one."
        )
    name, blocks = named[0]
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


def encoder_class(dotted: str | None, where: str = "vision_encoder.type") -> type[VisionEncoder]:
    """The class that reads an image encoder.

    Args:
        dotted: path of a class of the user's; None takes vlmtool's.
        where: the recipe key, for the error.

    Raises:
        RecipeError: there is none, or it is not one that reads encoders.
    """
    if dotted is None:
        return VisionEncoder
    cls = import_class(dotted, where)
    if not (isinstance(cls, type) and issubclass(cls, VisionEncoder)):
        raise RecipeError(
            f"{where} = '{dotted}' does not read image encoders.\nIts class must derive from vlmtool's VisionEncoder."
        )
    return cls
