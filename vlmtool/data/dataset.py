"""A map-style dataset of rendered samples, and the scan that is made before the first step."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vlmtool.data.conversation import Conversation
from vlmtool.data.image_transform import ImageTransform, picture_size
from vlmtool.data.render import IGNORED, Rendered, Renderer
from vlmtool.utils.errors import DataError
from vlmtool.utils.terminal import track


@dataclass(frozen=True)
class Sample:
    """One sample: ids and labels (T,), pixel values (I, 3, H, W) or None without an image."""

    id: str
    input_ids: Tensor
    labels: Tensor
    pixel_values: Tensor | None


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
    """

    def __init__(
        self, conversations: Sequence[Conversation], renderer: Renderer, transform: ImageTransform, max_length: int
    ) -> None:
        self.conversations = list(conversations)
        self.renderer = renderer
        self.transform = transform
        self.max_length = max_length
        self.lengths: list[int] = []
        """Tokens of each sample, once scanned."""

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> Sample:
        conversation = self.conversations[index]
        rendered = cut(self.renderer.sample(conversation), self.max_length, conversation, self.renderer.image_token_id)
        try:
            pixel_values = self.transform(conversation.images) if conversation.images else None
        except DataError as error:
            raise DataError(f"sample '{conversation.id}' ({conversation.origin}): {error}") from error
        return Sample(conversation.id, torch.tensor(rendered.input_ids), torch.tensor(rendered.labels), pixel_values)

    def scan(self, description: str = "Reading samples") -> ScanReport:
        """Render every sample once: note lengths, drop samples without a supervised token, count what is cut.

        Raises:
            DataError: an image is missing or no picture, an image would be cut, or nothing is left to learn from.
        """
        report = ScanReport()
        kept: list[Conversation] = []
        self.lengths = []
        missing = Counter[str]()
        for conversation in track(self.conversations, len(self.conversations), description):
            for image in conversation.images:
                if isinstance(image.source, str) and not (self.transform.image_folder / image.source).is_file():
                    missing[image.source] += 1
                elif isinstance(image.source, str):
                    _check_header(self.transform, image.source, conversation)
            whole = self.renderer.sample(conversation)
            rendered = cut(whole, self.max_length, conversation, self.renderer.image_token_id)
            if not rendered.num_supervised:
                report.unsupervised.append(conversation.id)
                continue
            if len(whole.input_ids) > self.max_length:
                report.cut_answers.append(conversation.id)
            kept.append(conversation)
            self.lengths.append(len(rendered.input_ids))
            report.num_images += len(conversation.images)
            report.num_supervised += rendered.num_supervised
        _refuse_missing(missing, self.transform)
        if not kept:
            raise DataError(
                "No sample has a supervised token.\n"
                "Do the records have answers (from: gpt) that fit in data.max_length?"
            )
        self.conversations = kept
        report.num_samples = len(kept)
        report.num_tokens = sum(self.lengths)
        return report


def cut(rendered: Rendered, max_length: int, conversation: Conversation, image_token_id: int) -> Rendered:
    """The first `max_length` tokens.

    Raises:
        DataError: an image would be cut.
    """
    if len(rendered.input_ids) <= max_length:
        return rendered
    if image_token_id in rendered.input_ids[max_length:]:
        raise DataError(
            f"sample '{conversation.id}' ({conversation.origin}): its {len(rendered.input_ids)} tokens exceed "
            f"data.max_length = {max_length}, and an image would be cut.\nRaise data.max_length or shorten the sample."
        )
    return Rendered(rendered.input_ids[:max_length], rendered.labels[:max_length])


def _check_header(transform: ImageTransform, source: str, conversation: Conversation) -> None:
    """Read the header only: enough to find what is no picture, little enough for every start."""
    try:
        picture_size(transform.image_folder / source)
    except DataError as error:
        raise DataError(f"sample '{conversation.id}' ({conversation.origin}): {error}") from error


def _refuse_missing(missing: Counter[str], transform: ImageTransform) -> None:
    if missing:
        raise DataError(
            f"{len(missing)} images are missing in '{transform.image_folder}', first '{next(iter(missing))}' "
            f"({missing.total()} uses).\nCheck data.image_folder; `vlmtool data check RECIPE` lists them all."
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
