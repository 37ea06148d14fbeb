"""The only place where image embeddings meet text."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmtool.utils.checklist import counted


def splice_image_embeds(text_embeds: Tensor, image_embeds: Sequence[Tensor], is_image: Tensor) -> Tensor:
    """Put image embeddings where the prompt has image tokens.

    Args:
        text_embeds: (B, T, D) embeddings of the token ids; what stands at image positions does not matter.
        image_embeds: (N_i, D) of each image, in reading order over the batch.
        is_image: (B, T) bool, true where an image token stands; image i is already expanded to N_i of them.

    Returns:
        (B, T, D); the inputs are not modified.

    Raises:
        ValueError: the batch has more or fewer image tokens than the images give.

    Source: LLaVA, https://arxiv.org/abs/2304.08485, section 4.1.
    """
    wanted, given = int(is_image.sum()), sum(len(embeds) for embeds in image_embeds)
    if wanted != given:
        raise ValueError(
            f"The prompts hold {counted(wanted, 'image token')}, but {given} come from "
            f"{counted(len(image_embeds), 'image')}.\n"
            "Check that max_length did not cut an image: `vlmtool data check RECIPE`."
        )
    fused = text_embeds.clone()
    if image_embeds:
        fused[is_image] = torch.cat(list(image_embeds)).to(fused.dtype)
    return fused
