"""Pictures as an encoder takes them: what the data side makes and the model reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Pixels:
    """The views of one or more pictures, picture after picture, each beginning with its view of the whole.

    Attributes:
        values: (V, 3, H, W), V views over all pictures; with native resolution (I, P, 3·p·p), one row of patches of
            side p for each picture, zeros after its last.
        layouts: (I, 4) int64, for each picture: rows and columns of its tiles (0, 0 where it has one view alone; of
            its patches with native resolution), and its height and width in pixels before it was prepared.
    """

    values: Tensor
    layouts: Tensor

    @classmethod
    def one_view_each(cls, values: Tensor) -> "Pixels":
        """Pictures (I, 3, H, W) that are one view each."""
        size = torch.tensor([0, 0, values.shape[-2], values.shape[-1]])
        return cls(values, size.expand(len(values), 4))

    @classmethod
    def joined(cls, parts: Sequence["Pixels"]) -> "Pixels":
        """The pictures of all parts, in order; rows of patches are padded to the longest."""
        values = [part.values for part in parts]
        if values[0].dim() == 3:
            longest = max(value.shape[1] for value in values)
            values = [pad(value, (0, 0, 0, longest - value.shape[1])) for value in values]
        return cls(torch.cat(values), torch.cat([part.layouts for part in parts]))

    def __len__(self) -> int:
        """I, pictures."""
        return len(self.layouts)

    def to(self, device: torch.device | str) -> "Pixels":
        """The same on a device; layouts stay where they can be read without waiting for it."""
        return replace(self, values=self.values.to(device, non_blocking=True))

    def pin_memory(self) -> "Pixels":
        """The same in page-locked memory."""
        return replace(self, values=self.values.pin_memory())
