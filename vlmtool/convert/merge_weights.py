"""The arithmetic of a merge: adapters into the weights of their layers."""

from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from vlmtool.chat.adapter import add_adapter
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.terminal import track


def merged_model(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """`model` with the adapter added to its weights, in float32, layer by layer; each keeps its type.

    Raises:
        CheckpointError: the adapter does not fit, or gives weights that are no finite numbers.
    """
    with_adapter: PeftModel = add_adapter(model, adapter)
    layers = [module for module in with_adapter.modules() if isinstance(module, BaseTunerLayer)]
    for layer in track(layers, len(layers), "Merging"):
        _merge_layer(layer, adapter)
    return with_adapter.unload()


def _merge_layer(layer: BaseTunerLayer, adapter: Path) -> None:
    base: nn.Module = layer.get_base_layer()
    dtype = base.get_parameter("weight").dtype
    base.float()  # in 16 bit the sum would be rounded twice
    try:
        layer.merge(safe_merge=True)
    except ValueError as error:
        raise CheckpointError(f"{adapter}: cannot be merged: {str(error).splitlines()[0]}") from error
    base.to(dtype)
    if not torch.isfinite(base.get_parameter("weight")).all():
        raise CheckpointError(f"{adapter}: merged, a weight is too large for {dtype}.\nGive the base in float32.")
