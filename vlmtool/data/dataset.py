"""A map-style dataset of rendered samples, and the scan that is made before the first step."""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vlmtool.data.conversation import Conversation
from vlmtool.data.image_transform import ImageTransform, MissingImage, check_picture
from vlmtool.data.render import IGNORED, Rendered, Renderer
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import DataError, shortened
from vlmtool.utils.pixels import Pixels
from vlmtool.utils.terminal import track


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be used, and why."""

    id: str
    origin: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """One sample: ids and labels (T,), what the encoder gets of its images, or None."""

    id: str
    input_ids: Tensor
    labels: Tensor
    pixels: Pixels | None
    replaced: tuple[BadSample, ...] = ()
    """The samples whose place this one takes."""


@dataclass
class ScanReport:
    """What the scan of a data set found; ids are in file order."""

    num_samples: int = 0
    num_images: int = 0
    num_tokens: int = 0
    num_supervised: int = 0
    cut_answers: list[str] = field(default_factory=list)
    """Samples longer than max_length, whose last answer ends early."""
    unsupervised: list[str] = field(default_factory=list)
    """Samples without a supervised token, which are skipped."""


class ConversationDataset(Dataset[Sample]):
    """Rendered samples of conversations.

    Args:
        max_length: tokens per sample, image tokens included.
        bad: records that could not be read. Where they are given, samples that cannot be used join them and are left
            out by `scan`, and the next one takes the place of a sample that only shows it when drawn.
        name: of the file, for messages.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        renderer: Renderer,
        transform: ImageTransform,
        max_length: int,
        bad: Sequence[BadSample] | None = None,
        name: str = "",
    ) -> None:
        self.conversations = conversations
        self.skips_bad = bad is not None
        self.bad = list(bad or ())
        self.renderer = renderer
        self.transform = transform
        self.max_length = max_length
        self.name = name
        self.lengths: list[int] = []
        """Tokens of each sample, once scanned."""

    def __len__(self) -> int:
        return len(self.conversations)

    @property
    def parts(self) -> tuple["ConversationDataset"]:
        """The set alone, as a mixture of one."""
        return (self,)

    @property
    def _told(self) -> str:
        return f"{self.name}: " if self.name else ""

    def count_among(self, origins: Container[str]) -> int:
        """How many of its samples, usable or not, are from these places."""
        return sum(place in origins for place in chain(self._origins(), (sample.origin for sample in self.bad)))

    def _origins(self) -> Iterator[str]:
        return (conversation.origin for conversation in self.conversations)

    def __getitem__(self, index: int) -> Sample:
        bad: list[BadSample] = []
        for number in range(index, index + len(self)):
            conversation = self.conversations[number % len(self)]
            try:
                return replace(self._load(conversation), replaced=tuple(bad))
            except DataError as error:
                bad.append(self._bad(conversation.id, conversation.origin, error))
        raise DataError(f"{self._told}Not one sample can be used.\nFirst: {bad[0].reason}")

    def _load(self, conversation: Conversation) -> Sample:
        rendered = cut(self.renderer.sample(conversation), self.max_length, conversation, self.renderer.image_token_id)
        try:
            pixels = self.transform(conversation.images) if conversation.images else None
        except DataError as error:
            raise DataError(f"{_named(conversation)}: {error}") from error
        return Sample(conversation.id, torch.tensor(rendered.input_ids), torch.tensor(rendered.labels), pixels)

    def scan(self, description: str = "Reading samples") -> ScanReport:
        """Look at every sample once: note lengths, drop samples without a supervised token, count what is cut.

        Raises:
            DataError: an image is missing or no picture, an image would be cut, or nothing is left to learn from.
        """
        report = ScanReport()
        missing = Counter[str]()
        kept, cut_answers, unsupervised = list[int](), list[int](), list[int]()
        self.lengths = []
        for number, look in enumerate(self._looks(description)):
            if isinstance(look, BadSample):
                self.bad.append(look)
                continue
            missing.update(look.absent)
            if look.absent:  # told all at once at the end
                continue
            if not look.num_supervised:
                unsupervised.append(number)
                continue
            if look.is_cut:
                cut_answers.append(number)
            kept.append(number)
            self.lengths.append(look.length)
            report.num_images += look.num_images
            report.num_supervised += look.num_supervised
        _refuse_missing(missing, self.transform)
        if not kept:
            raise DataError(
                f"{self._told}No sample has a supervised token.\n"
                "Do the records have answers (from: gpt) that fit in data.max_length?"
            )
        report.cut_answers, report.unsupervised = (
            [self.conversations[number].id for number in numbers] for numbers in (cut_answers, unsupervised)
        )
        self._keep(kept)
        report.num_samples = len(kept)
        report.num_tokens = sum(self.lengths)
        return report

    def _looks(self, description: str) -> Iterator["Look | BadSample"]:
        """At each sample, in their order."""
        return (self._look(one) for one in track(self.conversations, len(self.conversations), description))

    def _look(self, conversation: Conversation) -> "Look | BadSample":
        """At a sample; what is wrong with it is raised where bad samples are not skipped."""
        try:
            look = look_at(conversation, self.renderer, self.transform.image_folder, self.max_length)
            if look.absent and self.skips_bad:
                raise DataError(f"image '{look.absent[0]}' is missing")
        except DataError as error:
            return self._bad(conversation.id, conversation.origin, error)
        return look

    def _bad(self, sample_id: str, origin: str, error: DataError) -> BadSample:
        if not self.skips_bad:
            raise error
        return BadSample(sample_id, origin, str(error).partition("\n")[0])

    def _keep(self, numbers: Sequence[int]) -> None:
        """Leave the other samples out."""
        self.conversations = [self.conversations[number] for number in numbers]


class Look(NamedTuple):
    """What is known of a sample whose picture is not decoded."""

    length: int
    """Tokens, after a cut."""
    num_supervised: int
    num_images: int
    is_cut: bool
    """It is longer than max_length, and its last answer ends early."""
    absent: tuple[str, ...] = ()
    """Pictures that are not there; of such a sample nothing else is known."""


def look_at(conversation: Conversation, renderer: Renderer, image_folder: Path, max_length: int) -> Look:
    """Render a sample, and look whether its pictures are there.

    Raises:
        DataError: an image is no picture or would be cut, or the template does not take the sample.
    """
    absent = tuple(_absent_images(conversation, image_folder))
    if absent:
        return Look(0, 0, 0, False, absent)
    num_images = len(conversation.images)
    length, num_supervised = renderer.count(conversation)
    if length <= max_length:
        return Look(length, num_supervised, num_images, False)
    rendered = cut(renderer.sample(conversation), max_length, conversation, renderer.image_token_id)
    return Look(len(rendered.input_ids), rendered.num_supervised, num_images, True)


def _absent_images(conversation: Conversation, image_folder: Path) -> Iterator[str]:
    """Those of a sample's pictures that are not there.

    Only headers are read: enough to find what is no picture, little enough for every start.
    """
    for image in conversation.images:
        if isinstance(image.source, str):
            try:
                check_picture(image_folder / image.source)
            except MissingImage:
                yield image.source
            except DataError as error:
                raise DataError(f"{_named(conversation)}: {error}") from error


def cut(rendered: Rendered, max_length: int, conversation: Conversation, image_token_id: int) -> Rendered:
    """The first `max_length` tokens.

    Raises:
        DataError: an image would be cut.
    """
    if len(rendered.input_ids) <= max_length:
        return rendered
    if image_token_id in rendered.input_ids[max_length:]:
        raise DataError(
            f"{_named(conversation)}: its {len(rendered.input_ids):,} tokens exceed "
            f"data.max_length = {max_length:,}, and an image would be cut.\n"
            "Raise data.max_length or shorten the sample."
        )
    return Rendered(rendered.input_ids[:max_length], rendered.labels[:max_length])


def _named(conversation: Conversation) -> str:
    return f"sample '{shortened(conversation.id)}' ({conversation.origin})"


def _refuse_missing(missing: Counter[str], transform: ImageTransform) -> None:
    if missing:
        number, first = len(missing), shortened(next(iter(missing)))
        raise DataError(
            f"{counted(number, 'image')} {'is' if number == 1 else 'are'} missing in '{transform.image_folder}', "
            f"first '{first}' ({counted(missing.total(), 'use')}).\n"
            "Check data.image_folder; `vlmtool data check RECIPE` lists them all."
        )


def assert_trainable(labels: Tensor, input_ids: Tensor, image_token_id: int, ids: Sequence[str]) -> None:
    """Stop where a batch supervises nothing or an image token: its loss would be wrong, silently.

    Raises:
        DataError: it does; the samples are named.
    """
    supervised = labels[:, 1:] != IGNORED
    named = f"The batch of samples {', '.join(ids)}"
    if not supervised.any():
        raise DataError(f"{named} supervises nothing.\nCheck the chat template's marks.")
    if (supervised & (input_ids[:, 1:] == image_token_id)).any():
        raise DataError(f"{named} supervises image tokens.\nCheck the chat template's marks.")
