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
            side p for each picture, zeros after its last. Of pictures in `features` there are none.
        layouts: (I, 4) int64, for each picture: rows and columns of its tiles (0, 0 where it has one view alone; of
            its patches with native resolution), and its height and width in pixels before it was prepared.
        keys: of the pictures in a store of features; empty where there is no store, None for what it is not to keep.
        features: (V_i, N, D) of the pictures that the store has or that were encoded before, None for the others; empty
            where there is neither.
    """

    values: Tensor
    layouts: Tensor
    keys: tuple[bytes | None, ...] = ()
    features: tuple[Tensor | None, ...] = ()

    @classmethod
    def one_view_each(cls, values: Tensor) -> "Pixels":
        """Pictures (I, 3, H, W) that are one view each."""
        size = torch.tensor([0, 0, values.shape[-2], values.shape[-1]])
        return cls(values, size.expand(len(values), 4))

    @classmethod
    def joined(cls, parts: Sequence["Pixels"]) -> "Pixels":
        """The pictures of all parts, in order; rows of patches are padded to the longest."""
        layouts = torch.cat([part.layouts for part in parts])
        values = [part.values for part in parts if len(part.values)]
        if values and values[0].dim() == 3:
            longest = max(value.shape[1] for value in values)
            values = [pad(value, (0, 0, 0, longest - value.shape[1])) for value in values]
        joined = torch.cat(values) if values else torch.empty(0)
        if not any(part.keys for part in parts):
            return cls(joined, layouts)
        nothing = [(None,) * len(part) for part in parts]
        keys = tuple(key for part, none in zip(parts, nothing, strict=True) for key in part.keys or none)
        features = tuple(known for part, none in zip(parts, nothing, strict=True) for known in part.features or none)
        return cls(joined, layouts, keys, features)

    def __len__(self) -> int:
        """I, pictures."""
        return len(self.layouts)

    @property
    def num_encoded(self) -> int:
        """Views that are still to be encoded."""
        return len(self.values)

    @property
    def num_views(self) -> int:
        """V, those of known pictures among them."""
        return self.num_encoded + sum(len(known) for known in self.features if known is not None)

    @property
    def unknown(self) -> "Pixels":
        """The pictures that are still to be encoded."""
        if not self.features:
            return self
        places = [place for place, known in enumerate(self.features) if known is None]
        return Pixels(self.values, self.layouts[places])

    def to(self, device: torch.device | str) -> "Pixels":
        """The same on a device; layouts stay where they can be read without waiting for it."""
        features = tuple(known if known is None else known.to(device, non_blocking=True) for known in self.features)
        return replace(self, values=self.values.to(device, non_blocking=True), features=features)

    def pin_memory(self) -> "Pixels":
        """The same in page-locked memory."""
        features = tuple(known if known is None else known.pin_memory() for known in self.features)
        return replace(self, values=self.values.pin_memory(), features=features)
