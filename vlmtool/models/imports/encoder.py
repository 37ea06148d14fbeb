"""An image encoder that was tuned inside a LLaVA model, put into the encoder that it was made from."""

from pathlib import Path

from torch import nn

from vlmtool.models.encoders.checkpoint import own_name
from vlmtool.models.imports.fit import block_number
from vlmtool.models.imports.vlm import ENCODER, find_vlm
from vlmtool.models.weights import load_weights
from vlmtool.utils.errors import CheckpointError


def put_over(encoder: nn.Module, folder: Path) -> None:
    """The encoder's weights in the whole model of `folder`, in place of those of `encoder`.

    Raises:
        CheckpointError: they are not those of this encoder, or not all of them.
    """
    vlm = find_vlm(folder)
    if vlm is None:
        raise AssertionError(f"{folder} is no whole model")
    wanted = encoder.state_dict().keys()
    state = {own_name(name, wanted): value for name, value in vlm.state(ENCODER).items()}
    report = load_weights(encoder, state, str(folder), [name for name, _ in encoder.named_parameters()])
    # What follows the last block that is there may be missing: LLaVA's code leaves out what it does not read.
    highest = max((number for name in state for number in block_number(name)), default=-1)
    blocks = [name for name in report.fresh for number in block_number(name) if number <= highest]
    if lost := [*(name for name in report.fresh if "embeddings." in name), *blocks]:
        raise CheckpointError(
            f"{folder}: has {len(lost)} weights of its image encoder too few, first '{lost[0]}'.\n"
            "A file is missing or was cut; fetch the folder again."
        )
