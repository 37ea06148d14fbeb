"""Put a peft adapter on a part, with nothing of it skipped."""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from vlmtool.utils.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from peft import PeftModel

# What peft raises, by no rule, where a config from anywhere says what its code does not expect. Not RuntimeError, which
# a full GPU raises too.
_ODD = (ValueError, TypeError, KeyError, AttributeError, IndexError, ImportError, NotImplementedError, re.error)


def add_adapter(part: nn.Module, folder: Path) -> PeftModel:
    """`part` with the adapter of `folder`.

    An adapter of the fused modules of a legacy class becomes the same adapter of its native class, which `part` is.

    Raises:
        CheckpointError: the adapter is damaged, or its weights are not exactly those that the part takes.
        UsageError: it is a DoRA and the part holds int8 weights.
    """
    # Takes a second to import, which a merged model does without.
    from peft import (
        LoraConfig,
        PeftConfig,
        PrefixTuningConfig,
        get_peft_model,
        get_peft_model_state_dict,
        set_peft_model_state_dict,
    )
    from peft.utils import load_peft_weights

    from vlmtool.models.legacy.adapter import fused_map, split_adapter

    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_peft_weights(str(folder), device="cpu")
    except (OSError, *_ODD, EOFError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the adapter cannot be read: {_reason(error)}\nIs the folder whole?"
        ) from error
    if getattr(config, "use_dora", False) and getattr(part, "is_loaded_in_8bit", False):
        raise UsageError(f"{folder}: this DoRA adapter does not go on int8 weights.\nGive --bits 4, or leave it out.")
    config.inference_mode = True
    legacy = fused_map(weights, part.config) if isinstance(part, PreTrainedModel) else None
    if legacy is not None and isinstance(config, LoraConfig):
        config, weights = split_adapter(legacy, part.config, config, weights, folder)
    if isinstance(config, PrefixTuningConfig):  # told by the part, so that a prefix of another part is seen
        config.num_layers = config.token_dim = config.num_attention_heads = None
    try:
        model = get_peft_model(part, config)
    except _ODD as error:  # layers that the part does not have, a rank that is no number, …
        raise CheckpointError(_misfit(folder, part, _reason(error))) from error
    # peft would also want the weights below an adapter on `lm_head`: of legacy classes' heads it did not write them.
    wanted = get_peft_model_state_dict(model, save_embedding_layers="auto" if legacy is None else False)
    # CLIP's blocks lay below `vision_model.` in earlier versions of transformers.
    weights = {name if name in wanted else name.replace(".vision_model.", ".", 1): v for name, v in weights.items()}
    if odd := sorted(wanted.keys() ^ weights.keys()):
        kind = "missing" if odd[0] in wanted else "unknown to the part"
        raise CheckpointError(_misfit(folder, part, f"{len(odd)} weights do not match, '{odd[0]}' is {kind}."))
    for name, value in weights.items():
        if value.shape != wanted[name].shape:
            shapes = f"'{name}' has shape {tuple(value.shape)}, the part takes {tuple(wanted[name].shape)}."
            raise CheckpointError(_misfit(folder, part, shapes))
    set_peft_model_state_dict(model, weights)
    return model


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if isinstance(error, ValueError) and text else f"{type(error).__name__} {text}".strip()


def _misfit(folder: Path, part: nn.Module, detail: str) -> str:
    return f"{folder}: the adapter does not fit {type(part).__name__}: {detail}\nIt was trained on another part."
