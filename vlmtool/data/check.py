"""What can be known of a data set before training: all that is wrong, each with its place, and how long samples are."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from vlmtool.data.conversation import Conversation
from vlmtool.data.dataset import cut
from vlmtool.data.formats.llava import RecordError, parse_record, read_records, record_id
from vlmtool.data.image_transform import open_picture, picture_size
from vlmtool.data.render import Rendered, Renderer
from vlmtool.data.templates.library import ChatTemplate
from vlmtool.utils.errors import DataError
from vlmtool.utils.terminal import track


@dataclass(frozen=True)
class Defect:
    """A way in which data can be wrong: whether it stops a training, what it is called, how it is mended."""

    level: Literal["error", "warning"]
    title: str
    remedy: str


# Worst first, which is the order of the report.
DEFECTS: dict[str, Defect] = {
    "json": Defect("error", "not valid JSON", "write the record again; each line holds one, or the file is one array"),
    "form": Defect("error", "wrong form", "a record is {id, image, conversations: [{from, value}]}"),
    "tags": Defect("error", "<image> tags ≠ images", "add the image or drop the tag"),
    "outside": Defect("error", "image outside its folder", "make the path relative to data.image_folder"),
    "missing_image": Defect("error", "missing image", "set data.image_folder, fetch the image or drop the record"),
    "broken_image": Defect("error", "unreadable image", "replace the file or drop its records"),
    "cut_image": Defect("error", "image cut by max_length", "raise data.max_length or shorten the sample"),
    "template": Defect("error", "refused by the template", "mend the record or name another llm.template"),
    "supervised_image": Defect("error", "image tokens supervised", "mark only the answers in the template"),
    "unsupervised": Defect("warning", "nothing to learn (skipped)", "give it an answer within data.max_length"),
    "cut_answer": Defect("warning", "answer cut by max_length", "raise data.max_length or shorten the sample"),
    "duplicate_id": Defect("warning", "id used before", "give each record an id of its own"),
    "duplicate_record": Defect("warning", "same record as before", "drop the copy"),
}


@dataclass(frozen=True)
class Finding:
    """One defect at one place."""

    kind: str
    """A key of `DEFECTS`."""
    origin: str
    """`file:line`, or `file: record N` in an array."""
    sample_id: str
    """Empty where the record cannot be read."""
    detail: str


@dataclass
class CheckReport:
    """What was found. `lengths` are tokens of each usable sample, image tokens included, before anything is cut."""

    num_records: int = 0
    num_images: int = 0
    """Uses of images, in usable samples."""
    num_tokens: int = 0
    """Of usable samples, as trained on: after a cut."""
    num_supervised: int = 0
    lengths: list[int] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def num_samples(self) -> int:
        """Samples that training would use."""
        return len(self.lengths)

    @property
    def supervised_share(self) -> float:
        """Supervised tokens of all tokens, 0 to 1."""
        return self.num_supervised / self.num_tokens if self.num_tokens else 0.0

    @property
    def has_errors(self) -> bool:
        """Training would stop, or nothing is left to train on."""
        return not self.lengths or any(DEFECTS[finding.kind].level == "error" for finding in self.findings)

    def by_kind(self) -> dict[str, list[Finding]]:
        """The findings of each kind that occurs, worst kind first, in file order."""
        groups = {kind: [finding for finding in self.findings if finding.kind == kind] for kind in DEFECTS}
        return {kind: group for kind, group in groups.items() if group}

    def length_at(self, share: float) -> int:
        """The length that `share` (0 to 1) of the samples do not exceed; 0 without samples."""
        if not self.lengths:
            return 0
        return sorted(self.lengths)[max(0, math.ceil(share * len(self.lengths)) - 1)]


def check_data(
    paths: Sequence[str | Path],
    image_folder: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate,
    num_image_tokens: int,
    max_length: int,
    image_position: str = "as_written",
    deep: bool = False,
    limit: int | None = None,
) -> CheckReport:
    """Read every record, render it, and look at its images.

    Args:
        paths: the training file and, where there is one, the held-out file.
        num_image_tokens: tokens that an image takes in the prompt.
        deep: decode each image whole, not only its header.
        limit: records of each file that are looked at; None for all.

    Raises:
        UsageError: there is no such file. DataError: the template marks no answers.
    """
    renderer = Renderer(tokenizer, template, lambda image: num_image_tokens)
    checker = _Checker(renderer, Path(image_folder), max_length, image_position, deep)
    for path in paths:
        checker.check_file(Path(path), limit)
    return checker.report


class _Checker:
    """What is remembered from record to record: images looked at, ids and contents seen."""

    def __init__(
        self, renderer: Renderer, image_folder: Path, max_length: int, image_position: str, deep: bool
    ) -> None:
        self.report = CheckReport()
        self.renderer = renderer
        self.image_folder = image_folder
        self.max_length = max_length
        self.image_position = image_position
        self.deep = deep
        self._images: dict[str, tuple[str, str] | None] = {}
        self._contents: dict[bytes, str] = {}

    def check_file(self, path: Path, limit: int | None) -> None:
        """Every record of a file; one that cannot be read is noted and passed."""
        ids: dict[str, str] = {}
        try:
            records = list(read_records(path, lambda origin, error: self._note("json", origin, "", error)))[:limit]
        except DataError as error:
            self._note("json", str(path), "", error)
            return
        for origin, number, record in track(records, len(records), f"Checking {path.name}"):
            self.report.num_records += 1
            sample_id = record_id(record, str(number))
            if (own_id := record_id(record, "")) and (first := ids.setdefault(own_id, origin)) != origin:
                self._note("duplicate_id", origin, own_id, f"first used at {first}")
            try:
                conversation = parse_record(record, origin, str(number), self.image_position)
            except RecordError as error:
                self._note(error.kind, origin, sample_id, error)
                continue
            self._check_copy(record, origin, sample_id)
            images_fine = self._check_images(conversation)
            self._check_tokens(conversation, images_fine)

    def _note(self, kind: str, origin: str, sample_id: str, detail: str | DataError) -> None:
        """Note a defect; of an error's message the first line, without the place and the id that the report gives."""
        text = str(detail).split("\n")[0]
        for known in (f"{origin}: ", f"sample '{sample_id}'", ":", " "):
            text = text.removeprefix(known)
        self.report.findings.append(Finding(kind, origin, sample_id, text))

    def _check_copy(self, record: dict[str, Any], origin: str, sample_id: str) -> None:
        """The same images and turns as before; a held-out record that is in the training file, too."""
        content = json.dumps([record.get("image"), record["conversations"]], sort_keys=True)
        key = hashlib.blake2b(content.encode(), digest_size=16).digest()
        if (first := self._contents.setdefault(key, origin)) != origin:
            self._note("duplicate_record", origin, sample_id, f"same images and turns as {first}")

    def _check_images(self, conversation: Conversation) -> bool:
        """Note the images that cannot be used; each file is looked at once."""
        fine = True
        for source in dict.fromkeys(str(image.source) for image in conversation.images):
            if source not in self._images:
                self._images[source] = self._image_defect(source)
            if (defect := self._images[source]) is not None:
                fine = False
                self._note(defect[0], conversation.origin, conversation.id, defect[1])
        return fine

    def _image_defect(self, source: str) -> tuple[str, str] | None:
        path = self.image_folder / source
        if not path.is_file():
            return "missing_image", source
        try:
            if self.deep:
                open_picture(path)
            else:
                picture_size(path)
        except DataError as error:
            reason = str(error).split("\n")[0].removeprefix(f"{path}: the image cannot be read: ")
            return "broken_image", f"{source}: {reason}"
        return None

    def _check_tokens(self, conversation: Conversation, images_fine: bool) -> None:
        """Render the sample, compare it with max_length, and count it where it can be trained on."""
        place = (conversation.origin, conversation.id)
        whole = self._render(conversation)
        if whole is None:
            return
        length, token = len(whole.input_ids), self.renderer.image_token_id
        try:
            rendered = cut(whole, self.max_length, conversation, token)
        except DataError:
            self._note("cut_image", *place, f"{length} tokens")
            return
        if token in rendered.labels:
            self._note("supervised_image", *place, "the template marks a turn that holds images")
        elif not rendered.num_supervised:
            reason = f"its {length} tokens are cut before the answer" if whole.num_supervised else "no answer with text"
            self._note("unsupervised", *place, reason)
        elif images_fine:
            if length > self.max_length:
                self._note("cut_answer", *place, f"{length} tokens")
            self.report.lengths.append(length)
            self.report.num_images += len(conversation.images)
            self.report.num_tokens += len(rendered.input_ids)
            self.report.num_supervised += rendered.num_supervised

    def _render(self, conversation: Conversation) -> Rendered | None:
        try:
            return self.renderer.sample(conversation)
        except DataError as error:
            self._note("template", conversation.origin, conversation.id, error)
            return None
