"""From samples to a padded batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlmtool.data.dataset import BadSample, Sample, assert_trainable
from vlmtool.data.render import IGNORED
from vlmtool.utils.pixels import Pixels


@dataclass(frozen=True)
class Batch:
    """Padded on the right: `input_ids` and `labels` (B, T); `pixels` of the images in reading order, or None."""

    ids: tuple[str, ...]
    input_ids: Tensor
    labels: Tensor
    pixels: Pixels | None
    num_tokens: int
    """Tokens of the samples, padding not counted."""
    bad_samples: tuple[BadSample, ...] = ()
    """Samples that could not be used, whose place others took."""
    lengths: tuple[int, ...] | None = None
    """Tokens of each sample, padding not counted; None where they were not noted."""
    is_packed: bool = False
    """The samples lie in one row, one behind the other: B is 1, and nothing is padded."""

    @property
    def num_supervised(self) -> int:
        """Number of tokens that make the loss."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    @property
    def num_samples(self) -> int:
        """B."""
        return len(self.ids)

    @property
    def num_images(self) -> int:
        """I, pictures over all samples."""
        return 0 if self.pixels is None else len(self.pixels)

    @property
    def num_encoded(self) -> int:
        """Views that go through the encoder."""
        return 0 if self.pixels is None else self.pixels.num_encoded

    @property
    def num_views(self) -> int:
        """Views whose features go through the projector."""
        return 0 if self.pixels is None else self.pixels.num_views

    @property
    def num_bad_samples(self) -> int:
        """Samples whose place others took."""
        return len(self.bad_samples)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            pixels=self.pixels.to(device) if self.pixels is not None else None,
        )

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory; called by the data loader."""
        pixels = self.pixels.pin_memory() if self.pixels is not None else None
        return replace(self, input_ids=self.input_ids.pin_memory(), labels=self.labels.pin_memory(), pixels=pixels)


@dataclass(frozen=True)
class Collator:
    """Makes samples a batch, padded or packed, and refuses one that would train on nothing or on image tokens."""

    pad_token_id: int
    image_token_id: int
    packs: bool = False

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        rows = [s.input_ids for s in samples], [s.labels for s in samples]
        input_ids, labels = _packed(*rows) if self.packs else _padded(*rows, self.pad_token_id)
        pixels = [s.pixels for s in samples if s.pixels is not None]
        ids = tuple(s.id for s in samples)
        assert_trainable(labels, input_ids, self.image_token_id, ids)
        lengths = tuple(len(s.input_ids) for s in samples)
        bad = tuple(sample for s in samples for sample in s.replaced)
        joined = Pixels.joined(pixels) if pixels else None
        return Batch(ids, input_ids, labels, joined, sum(lengths), bad, lengths, self.packs)


def _padded(input_ids: list[Tensor], labels: list[Tensor], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """(B, T), T of the longest."""
    padded = pad_sequence(input_ids, batch_first=True, padding_value=pad_token_id)
    return padded, pad_sequence(labels, batch_first=True, padding_value=IGNORED)


def _packed(input_ids: list[Tensor], labels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(1, T), T of all; the end of a sample is not asked for the first token of the next."""
    nothing = torch.tensor([IGNORED])
    return torch.cat(input_ids)[None], torch.cat([part for row in labels for part in (nothing, row[1:])])[None]
