"""Put a peft adapter on a part, with nothing of it skipped."""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from torch import nn

from vlmtool.utils.errors import CheckpointError

if TYPE_CHECKING:
    from peft import PeftModel

# What peft raises, by no rule, where a config from anywhere says what its code does not expect. Not RuntimeError, which
# a full GPU raises too.
_ODD = (ValueError, TypeError, KeyError, AttributeError, IndexError, ImportError, NotImplementedError, re.error)


def add_adapter(part: nn.Module, folder: Path) -> PeftModel:
    """`part` with the adapter of `folder`.

    Raises:
        CheckpointError: the adapter is damaged, or its weights are not exactly those that the part takes.
    """
    # Takes a second to import, which a merged model does without.
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_peft_weights(str(folder), device="cpu")
    except (OSError, *_ODD, EOFError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the adapter cannot be read: {_reason(error)}\nIs the folder whole?"
        ) from error
    config.inference_mode = True
    try:
        model = get_peft_model(part, config)
    except _ODD as error:  # layers that the part does not have, a rank that is no number, …
        raise CheckpointError(_misfit(folder, part, _reason(error))) from error
    wanted = get_peft_model_state_dict(model)
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
