"""An image encoder that was tuned inside a LLaVA model, put into the encoder that it was made from."""

from pathlib import Path

from torch import nn

from vlmtool.models.encoders.checkpoint import own_name
from vlmtool.models.imports.vlm import ENCODER, find_vlm
from vlmtool.models.weights import load_weights


def put_over(encoder: nn.Module, folder: Path) -> None:
    """The encoder's weights in the whole model of `folder`, in place of those of `encoder`.

    Raises:
        CheckpointError: they are not those of this encoder.
    """
    vlm = find_vlm(folder)
    if vlm is None:
        raise AssertionError(f"{folder} is no whole model")
    wanted = encoder.state_dict().keys()
    state = {own_name(name, wanted): value for name, value in vlm.state(ENCODER).items()}
    load_weights(encoder, state, str(folder))
