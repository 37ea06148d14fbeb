"""Several data sets as one: their samples are numbered one set after another, and each set keeps its own ways."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from torch.utils.data import Dataset

from vlmtool.data.conversation import Conversation
from vlmtool.data.dataset import BadSample, ConversationDataset, Sample, ScanReport


class Mixture(Dataset[Sample]):
    """What a training learns from: one data set or more, each with its own template and image folder.

    A sample that cannot be used is replaced within its own set. Ids stay as the files give them, so two sets may share
    one; a message names the file and the line too.
    """

    def __init__(self, parts: Sequence[ConversationDataset]) -> None:
        self.parts = tuple(parts)

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, index: int) -> Sample:
        part, place = self._place(index)
        return part[place]

    def _place(self, index: int) -> tuple[ConversationDataset, int]:
        """The set that a sample is of, and its number there."""
        ends = list(accumulate(self.sizes))
        number = bisect_right(ends, index)
        return self.parts[number], index - ends[number] + self.sizes[number]

    def scan(self) -> list[ScanReport]:
        """Scan each set, as `ConversationDataset.scan` does."""
        several = len(self.parts) > 1
        return [part.scan(f"Reading {part.name}" if several else "Reading samples") for part in self.parts]

    @property
    def sizes(self) -> list[int]:
        """Samples of each set."""
        return [len(part) for part in self.parts]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample, once scanned."""
        return [length for part in self.parts for length in part.lengths]

    def conversation(self, index: int) -> Conversation:
        """A sample before it is rendered."""
        part, place = self._place(index)
        return part.conversations[place]

    @property
    def bad(self) -> list[BadSample]:
        """Samples of all sets that were found to be of no use."""
        return [sample for part in self.parts for sample in part.bad]
