"""Image encoders of transformers (CLIP, SigLIP, …) read at one of their layers."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, CLIPVisionModel, PreTrainedConfig, PreTrainedModel, SiglipVisionModel

from vlmtool.models.complete import check_complete
from vlmtool.models.pickled import check_pickled_weights
from vlmtool.utils.errors import UsageError, did_you_mean
from vlmtool.utils.remote_code import hub_kernel, needs_remote_code

# model_type in config.json → class. A checkpoint of the whole CLIP or SigLIP gives its vision half.
VISION_CLASSES: dict[str, type[PreTrainedModel]] = {
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
    "siglip": SiglipVisionModel,
    "siglip_vision_model": SiglipVisionModel,
}


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


def has_cls_token(config: PreTrainedConfig) -> bool:
    """True where the first hidden state is a CLS token, not a patch: CLIP has one, SigLIP has none."""
    return config.model_type == "clip_vision_model"


class VisionEncoder(nn.Module):
    """A transformers vision model up to the layer that the projector reads; blocks above it are not kept.

    Args:
        model: the vision model; its list of blocks is shortened in place.
        select_layer: index into Hugging Face's `hidden_states` (0 the embeddings, -1 the last block).
        select_strategy: "patch" drops the first token, "full" keeps all, "auto" drops it where it is a CLS token.
    """

    def __init__(self, model: PreTrainedModel, select_layer: int = -2, select_strategy: str = "auto") -> None:
        super().__init__()
        self.model = model
        self.num_blocks = keep_blocks(model, select_layer)
        self.drops_first = select_strategy == "patch" or (select_strategy == "auto" and has_cls_token(model.config))

    @property
    def hidden_size(self) -> int:
        """D_vision."""
        return self.model.config.hidden_size

    @property
    def num_patches(self) -> int:
        """N, patch features per image that the projector gets."""
        config = self.model.config
        tokens = (config.image_size // config.patch_size) ** 2 + has_cls_token(config)
        return tokens - self.drops_first

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(I, 3, H, W) → patch features (I, N, D_vision)."""
        hidden_states = self.model(pixel_values.to(self.model.dtype), output_hidden_states=True).hidden_states
        selected = hidden_states[self.num_blocks]
        return selected[:, 1:] if self.drops_first else selected


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
