"""The composed model: encoder → projector → splice → language model."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmtool.models.attention import packed_inputs
from vlmtool.models.encoders.fused import ImageEncoder
from vlmtool.models.encoders.stored import encode, encoded
from vlmtool.models.last_block import LOGITS_AT
from vlmtool.models.llm import head_at
from vlmtool.models.loss import summed_cross_entropy
from vlmtool.models.noise import add_neftune_noise
from vlmtool.models.projectors.base import Projector
from vlmtool.models.splice import splice_image_embeds
from vlmtool.models.tiles import put_together
from vlmtool.utils.feature_store import FeatureStore
from vlmtool.utils.pixels import Pixels

IGNORED = -100  # label of a position that is not supervised, as in Hugging Face


class Loss(NamedTuple):
    """Summed cross entropy of the supervised tokens and their number: what a step's mean is made of."""

    total: Tensor
    num_tokens: Tensor


class VisionLanguageModel(nn.Module):
    """A vision encoder, a projector and a language model.

    Args:
        llm: a causal LM of transformers, with or without a peft adapter.
        image_token_id: id of the image token in `input_ids`; it may lie outside the LLM's vocabulary.
        neftune_alpha: strength of the noise on text embeddings in training; None: no noise.
    """

    def __init__(
        self,
        vision_encoder: ImageEncoder,
        projector: Projector,
        llm: PreTrainedModel,
        image_token_id: int,
        neftune_alpha: float | None = None,
    ) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder
        self.projector = projector
        self.llm = llm
        self.image_token_id = image_token_id
        self.neftune_alpha = neftune_alpha
        self.blank: Pixels | None = None
        """A picture that is encoded where a batch has none: for strategies under which every pass must take the same
        way through the model in all processes."""
        self.store: FeatureStore | None = None
        """Where the features of a frozen encoder are kept."""
        self.is_narrowed = False
        """The language model's last block leaves out what the loss does not read (`models/last_block.py`)."""

    @property
    def device(self) -> torch.device:
        """Where the inputs must be."""
        # Naming the weight would put it together under ZeRO's stage 3, in this process alone.
        return next(self.llm.get_input_embeddings().parameters()).device

    def train(self, mode: bool = True) -> Self:
        """As any module; but a frozen encoder has no dropout: what it makes of a picture is the same each time."""
        super().train(mode)
        if self.has_frozen_encoder:
            self.vision_encoder.eval()
        return self

    @property
    def has_frozen_encoder(self) -> bool:
        """What the encoder makes of a picture does not depend on the step."""
        return not any(p.requires_grad for p in self.vision_encoder.parameters())

    @torch.no_grad()
    def encoded(self, pixels: Pixels) -> Pixels:
        """The pictures with their features, which the forward pass then takes as they are: of a frozen encoder."""
        return encoded(self.vision_encoder, pixels, self.store)

    def encode_images(self, pixels: Pixels) -> list[Tensor]:
        """Image embeddings (N'_i, D) of each of the I pictures. A frozen encoder runs without autograd."""
        trains = self.training and not self.has_frozen_encoder
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            if pixels.features:
                patch_features = encode(self.vision_encoder, pixels, self.store)
            else:
                patch_features = self.vision_encoder(pixels)
        dtype = next(self.projector.parameters()).dtype
        views = [view for features in patch_features for view in self.projector(features.to(dtype))]  # V of (N', D)
        if not self.vision_encoder.reading.tiles:
            return views
        return put_together(views, pixels.layouts, self.projector.row_end)

    def embed(self, input_ids: Tensor, image_embeds: Sequence[Tensor] = ()) -> Tensor:
        """Embeddings (B, T, D) of token ids (B, T) with image embeddings (N'_i, D) at the image tokens."""
        is_image = input_ids == self.image_token_id
        text_embeds = self.llm.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        return splice_image_embeds(text_embeds, image_embeds, is_image)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        pixels: Pixels | None = None,
        attention_mask: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        packed: bool = False,
    ) -> Loss:
        """Loss of a batch, summed over its supervised tokens; logits are made at those positions only.

        Args:
            input_ids: (B, T), image i expanded to N'_i image tokens; padded on the right.
            labels: (B, T), -100 where not supervised.
            pixels: of the images in reading order, or None without images.
            attention_mask: (B, T); not needed for right padding, where causality already hides what follows.
            lengths: tokens of each sample, padding not counted; T for all unless given. Noise is measured by them.
            packed: the samples lie in one row, one behind the other (`models/attention.py`).
        """
        lengths = lengths or [input_ids.shape[1]] * len(input_ids)
        image_embeds = self.encode_images(pixels) if pixels is not None else []
        nothing = self._touch_unused(image_embeds)
        inputs_embeds = self.embed(input_ids, image_embeds)
        if self.blank is not None:  # gradients too must take the way they take with images
            inputs_embeds = inputs_embeds + nothing
        if self.training and self.neftune_alpha is not None:
            is_text = input_ids != self.image_token_id
            inputs_embeds = add_neftune_noise(inputs_embeds, is_text, lengths, self.neftune_alpha, packed)
        targets = labels[:, 1:]
        supervised = targets != IGNORED
        wanted = nn.functional.pad(supervised, (0, 1))  # the last position predicts nothing
        around = packed_inputs(lengths, input_ids.device) if packed else {"attention_mask": attention_mask}
        if self.is_narrowed:
            around[LOGITS_AT] = wanted.flatten().nonzero()[:, 0]
        with head_at(self.llm, wanted):
            logits = self.llm(inputs_embeds=inputs_embeds, use_cache=False, **around).logits
        # Flattened, not indexed: the gradient of an index would be a second tensor of the logits' size.
        total = summed_cross_entropy(logits.flatten(0, 1).float(), targets[supervised])
        return Loss(total + nothing, supervised.sum())

    def image_parameters(self) -> list[nn.Parameter]:
        """The trained weights that only images reach: the projector's and the encoder's."""
        return [p for part in (self.projector, self.vision_encoder) for p in part.parameters() if p.requires_grad]

    def _touch_unused(self, image_embeds: Sequence[Tensor]) -> Tensor | float:
        """Zero, but tied to the weights that a batch without images leaves out, so that every rank reduces the same."""
        if not image_embeds and self.blank is not None:
            return torch.cat(self.encode_images(self.blank.to(self.device))).sum().float() * 0.0
        if image_embeds or not self.training:
            return 0.0
        unused = self.image_parameters()
        return torch.stack([p.flatten()[0] for p in unused]).sum().float() * 0.0 if unused else 0.0
