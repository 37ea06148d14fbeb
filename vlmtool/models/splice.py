"""The only place where image embeddings meet text."""

from torch import Tensor

from vlmtool.utils.checklist import counted


def splice_image_embeds(text_embeds: Tensor, image_embeds: Tensor, is_image: Tensor) -> Tensor:
    """Put image embeddings where the prompt has image tokens.

    Args:
        text_embeds: (B, T, D) embeddings of the token ids; what stands at image positions does not matter.
        image_embeds: (I, N, D), images in reading order over the batch.
        is_image: (B, T) bool, true where an image token stands; each image is already expanded to N of them.

    Returns:
        (B, T, D); the inputs are not modified.

    Raises:
        ValueError: the batch has more or fewer image tokens than I * N.

    Source: LLaVA, https://arxiv.org/abs/2304.08485, section 4.1.
    """
    wanted, given = int(is_image.sum()), image_embeds.shape[0] * image_embeds.shape[1]
    if wanted != given:
        raise ValueError(
            f"The prompts hold {counted(wanted, 'image token')}, but {given} come from "
            f"{counted(image_embeds.shape[0], 'image')}.\n"
            "Check that max_length did not cut an image: `vlmtool data check RECIPE`."
        )
    fused = text_embeds.clone()
    fused[is_image] = image_embeds.flatten(0, 1).to(fused.dtype)
    return fused
