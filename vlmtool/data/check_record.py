"""What can be known of a record by itself, so that many processes can look at many records."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from vlmtool.data.check_report import Finding, finding
from vlmtool.data.conversation import Conversation, Image
from vlmtool.data.dataset import cut
from vlmtool.data.formats.json_stream import Record
from vlmtool.data.formats.llava import RecordError, is_inside, parse_record, record_id
from vlmtool.data.formats.record_keys import unread_keys
from vlmtool.data.image_transform import MissingImage, UnusableImage, check_picture
from vlmtool.data.render import Renderer
from vlmtool.data.templates.library import ChatTemplate
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import DataError, shortened


@dataclass(frozen=True)
class Prompting:
    """How a sample becomes tokens.

    Args:
        num_image_tokens: how many tokens an image takes in the prompt.
        max_length: tokens of a sample, image tokens included.
    """

    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate
    num_image_tokens: Callable[[Image], int]
    max_length: int


@dataclass(frozen=True)
class Source:
    """A file of records, and how they are read.

    Args:
        prompting: None where it is not known; then nothing is rendered.
    """

    path: Path
    image_folder: Path
    image_position: str = "as_written"
    prompting: Prompting | None = None


@dataclass(frozen=True)
class Task:
    """Records, and those image paths in them that no record before has."""

    records: Sequence[Record]
    new_images: Sequence[str]
    source: int = 0
    """Number of the file that they are from."""


@dataclass(slots=True)
class RecordFacts:
    """One record. Whether its images are fine is known elsewhere."""

    origin: str
    own_id: str
    """The id that the record gives itself, or an empty string."""
    sample_id: str
    findings: list[Finding]
    content: bytes | None = None
    """A hash of images and turns; None where the record cannot be read."""
    images: tuple[str, ...] = ()
    """Paths of its images, each once."""
    num_images: int = 0
    is_usable: bool = False
    """Training could use it, if its images are fine."""
    length: int = 0
    """Tokens before a cut."""
    num_tokens: int = 0
    num_supervised: int = 0

    def note(self, kind: str, detail: str | DataError) -> None:
        """Add a finding."""
        self.findings.append(finding(kind, self.origin, self.sample_id, detail))


@dataclass(frozen=True)
class Answer:
    """What a task gave: the facts of its records, and {path: (kind, detail)} of the new images that cannot be used."""

    facts: list[RecordFacts]
    bad_images: dict[str, tuple[str, str]]


class Checker:
    """Looks at records and images of several files."""

    def __init__(self, sources: Sequence[Source], deep: bool) -> None:
        self._checkers = [RecordChecker(source, deep) for source in sources]

    def __call__(self, task: Task) -> Answer:
        """Facts in the order of the records."""
        return self._checkers[task.source](task)


class RecordChecker:
    """Looks at records and images of one file.

    Args:
        deep: decode each image whole, not only its header.
    """

    def __init__(self, source: Source, deep: bool) -> None:
        self.image_folder = source.image_folder
        self.image_position = source.image_position
        self.deep = deep
        self.prompting = prompting = source.prompting
        if prompting is not None:
            self.renderer = Renderer(prompting.tokenizer, prompting.template, prompting.num_image_tokens)

    def __call__(self, task: Task) -> Answer:
        """Facts in the order of the records."""
        defects = {source: self._image_defect(source) for source in task.new_images if is_inside(source)}
        return Answer([self._facts(record) for record in task.records], {s: d for s, d in defects.items() if d})

    def _facts(self, record: Record) -> RecordFacts:
        if record.error is not None:
            facts = RecordFacts(record.origin, "", "", [])
            facts.note("json", record.error)
            return facts
        own_id, default_id = record_id(record.value, ""), str(record.number)
        facts = RecordFacts(record.origin, own_id, own_id or default_id, [])
        if isinstance(record.value, dict):
            for detail in unread_keys(record.value):
                facts.note("unread_key", detail)
        try:
            conversation = parse_record(record.value, record.origin, default_id, self.image_position)
        except RecordError as error:
            facts.note(error.kind, error)
            return facts
        content = json.dumps([record.value.get("image"), record.value["conversations"]], sort_keys=True)
        facts.content = hashlib.blake2b(content.encode(), digest_size=16).digest()
        sources = [str(image.source) for image in conversation.images]
        facts.images, facts.num_images = tuple(dict.fromkeys(sources)), len(sources)
        facts.is_usable = True
        for number, message in enumerate(conversation.messages, 1):
            if message.role == "assistant" and not str(message.content[0]).strip():
                facts.note("empty_answer", f"turn {number} of {len(conversation.messages)} has no text")
        if self.prompting is not None:
            self._add_tokens(facts, conversation, self.prompting.max_length)
        return facts

    def _add_tokens(self, facts: RecordFacts, conversation: Conversation, max_length: int) -> None:
        """Render the sample, and compare it with `max_length`."""
        facts.is_usable = False
        try:
            whole = self.renderer.sample(conversation)
        except (MissingImage, UnusableImage):
            return  # its size decides how many tokens it takes; that it cannot be used is known elsewhere
        except DataError as error:
            facts.note("template", error)
            return
        facts.length, token = len(whole.input_ids), self.renderer.image_token_id
        try:
            rendered = cut(whole, max_length, conversation, token)
        except DataError:
            facts.note("cut_image", counted(facts.length, "token"))
            return
        if token in rendered.labels:
            facts.note("supervised_image", "the template marks a turn that holds images")
        elif not rendered.num_supervised:
            cause = f"its {facts.length:,} tokens are cut before the answer" if whole.num_supervised else None
            facts.note("unsupervised", cause or "no answer with text")
        else:
            if facts.length > max_length:
                facts.note("cut_answer", counted(facts.length, "token"))
            facts.is_usable = True
            facts.num_tokens, facts.num_supervised = len(rendered.input_ids), rendered.num_supervised

    def _image_defect(self, source: str) -> tuple[str, str] | None:
        path = self.image_folder / source
        try:
            check_picture(path, self.deep)
        except MissingImage:
            other = names_in(path.parent).get(path.name.casefold())
            return "missing_image", shortened(source) + (f"; '{other}' is there" if other else "")
        except UnusableImage as error:
            return "broken_image", f"{shortened(source)}: {error.reason}"
        return None


@lru_cache(maxsize=16)
def names_in(folder: Path) -> dict[str, str]:
    """What lies in a folder, by its name in small letters; nothing of a folder that cannot be listed."""
    try:
        return {name.casefold(): name for name in os.listdir(folder)}
    except (OSError, ValueError):
        return {}
