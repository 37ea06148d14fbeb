"""The processor of a LLaVA folder of transformers': pictures and prompts as the training had them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from transformers import (
    AutoProcessor,
    LlavaImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)
from transformers.image_processing_utils import BaseImageProcessor

from vlmtool.convert.export import not_held
from vlmtool.convert.layouts.huggingface import typed_template
from vlmtool.convert.llava_fit import FORMAT, LlavaFit
from vlmtool.data.conversation import Image, user
from vlmtool.data.render import Renderer
from vlmtool.data.tokenizer import IMAGE_TAG
from vlmtool.data.views import OneView
from vlmtool.utils.errors import CheckpointError

_STEPS = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std", "do_convert_rgb",
)  # fmt: skip
_QUESTION = "What is in the picture?"


def write_processor(fit: LlavaFit, renderer: Renderer, folder: Path) -> None:
    """Write the processor, and see that it makes the token ids of the training.

    Args:
        renderer: of the training; its tokenizer gets what the folder's has beside, which changes no prompt.

    Raises:
        UsageError: the image processor cannot be had with padding to a square.
        CheckpointError: the processor makes other token ids.
    """
    _prepare(renderer.tokenizer, renderer.template.jinja)
    cls = LlavaProcessor if isinstance(fit.views, OneView) else LlavaNextProcessor
    image_processor = _image_processor(fit)
    cls(
        image_processor=image_processor,
        tokenizer=renderer.tokenizer,
        patch_size=fit.encoder.model.config.patch_size,
        vision_feature_select_strategy=fit.select_strategy,
        num_additional_image_tokens=fit.num_additional_tokens,
        image_token=IMAGE_TAG,
        chat_template=renderer.tokenizer.chat_template,
    ).save_pretrained(folder)
    image_processor.save_pretrained(folder)  # for readers that look for its own file
    _check_prompt(folder, renderer)


def _prepare(tokenizer: PreTrainedTokenizerBase, jinja: str) -> None:
    """What batches of prompts need, and no special token that the template does not print."""
    tokenizer.chat_template = typed_template(jinja, IMAGE_TAG)
    tokenizer.init_kwargs["padding_side"] = tokenizer.padding_side = "left"  # answers go on where prompts end
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    question = [{"role": "user", "content": _QUESTION}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    if tokenizer.bos_token is None or not prompt.startswith(tokenizer.bos_token):
        # Processors of transformers leave the tokenizer's own tokens out only where a prompt begins with BOS.
        tokenizer.add_bos_token = tokenizer.add_eos_token = False


def _image_processor(fit: LlavaFit) -> BaseImageProcessor:
    """The training's; where it padded to a square, LLaVA's own with the same steps, which does."""
    views = fit.views
    if not isinstance(views, OneView):
        views.processor.do_pad = True  # pictures of a batch differ in their number of tiles
        return views.processor
    if not fit.pad_to_square:
        return views.processor
    padding = LlavaImageProcessorPil(do_pad=True, **{name: getattr(views.processor, name, None) for name in _STEPS})
    wanted = views([_picture()]).values
    found = padding([_picture()], return_tensors="pt")["pixel_values"]
    if wanted.shape != found.shape or not torch.equal(wanted, found):
        raise not_held(FORMAT, f"a {type(views.processor).__name__} that pads to a square")
    return padding


def _check_prompt(folder: Path, renderer: Renderer) -> None:
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    content = [{"type": "image", "image": _picture()}, {"type": "text", "text": _QUESTION}]
    found = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    wanted = renderer.prompt([user(Image(_picture()), "\n", _QUESTION)])
    if list(found[0]) != wanted:
        raise CheckpointError(
            f"{folder}: transformers' processor makes other prompts of this tokenizer and template: "
            f"{len(found[0])} tokens, in training {len(wanted)}.\nUse --save-format vlmtool."
        )


def _picture() -> PILImage.Image:
    """A picture of noise that is no square."""
    noise = np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8)
    return PILImage.fromarray(noise)
