"""What a data check finds: kinds of defects, where they are, and how long samples are."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from vlmtool.utils.errors import shortened


@dataclass(frozen=True)
class Defect:
    """A way in which data can be wrong: whether it stops a training, what it is called, how it is mended."""

    level: Literal["error", "warning"]
    title: str
    remedy: str


# Worst first, which is the order of the report.
DEFECTS: dict[str, Defect] = {
    "wrong_file": Defect("error", "no data file", "give a JSON array or JSON Lines of records, in UTF-8"),
    "file": Defect("error", "file broken from here on", "write or copy the file again; it is UTF-8 and valid JSON"),
    "json": Defect("error", "not valid JSON", "write the record again; each line holds one, or the file is one array"),
    "form": Defect("error", "wrong form", "a record is {id, image, conversations: [{from, value}]}"),
    "tags": Defect("error", "<image> tags ≠ images", "add the image or drop the tag"),
    "outside": Defect("error", "image outside its folder", "make the path relative to data.image_folder"),
    "missing_image": Defect("error", "missing image", "set data.image_folder, fetch the image or drop the record"),
    "broken_image": Defect("error", "unreadable image", "replace or scale down the file, or drop its records"),
    "cut_image": Defect("error", "image cut by max_length", "raise data.max_length or shorten the sample"),
    "template": Defect("error", "refused by the template", "mend the record or name another llm.template"),
    "supervised_image": Defect("error", "image tokens supervised", "mark only the answers in the template"),
    "unread_key": Defect("warning", "key that is not read", "rename it, or drop it"),
    "empty_answer": Defect("warning", "empty answer", "write the answer or drop its turns: it teaches to say nothing"),
    "unsupervised": Defect("warning", "nothing to learn (skipped)", "give it an answer within data.max_length"),
    "cut_answer": Defect("warning", "answer cut by max_length", "raise data.max_length or shorten the sample"),
    "duplicate_id": Defect("warning", "id used before", "give each record an id of its own"),
    "duplicate_record": Defect("warning", "same record as before", "drop the copy"),
}


# What a training with data.on_bad_sample = "skip" leaves out.
SKIPPABLE = {"json", "form", "tags", "outside", "missing_image", "broken_image", "cut_image", "template"}


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


def finding(kind: str, origin: str, sample_id: str, detail: str | Exception) -> Finding:
    """A finding; of an error it takes the first line, without the place and the id that a finding gives anyway."""
    text = str(detail).split("\n")[0]
    named = shortened(sample_id)
    for known in (f"{origin}: ", f"sample '{named}'", ":", " "):
        text = text.removeprefix(known)
    return Finding(kind, origin, named, text)


@dataclass
class FileCounts:
    """What was found in one file."""

    num_samples: int = 0
    """Samples that training would use."""
    num_bad: int = 0
    """Records that a training skips or stops at."""
    kinds: set[str] = field(default_factory=set)
    """Of the findings."""

    def is_skipped(self, max_bad_share: float) -> bool:
        """Few enough are bad that a training goes on without them; it counts each file for itself."""
        return 0 < self.num_bad <= max_bad_share * (self.num_samples + self.num_bad)


@dataclass
class CheckReport:
    """What was found.

    Args:
        places: how many findings of each kind are kept; None for all. All are counted.
        max_bad_share: share of a file's samples, 0 to 1, that a training skips; with more it ends.
    """

    places: int | None = None
    max_bad_share: float = 0.0
    num_records: int = 0
    num_samples: int = 0
    """Samples that training would use."""
    files: dict[str, FileCounts] = field(default_factory=dict)
    num_images: int = 0
    """Uses of images, in usable samples."""
    num_tokens: int = 0
    """Of usable samples, as trained on: after a cut."""
    num_supervised: int = 0
    lengths: list[int] = field(default_factory=list)
    """Tokens of each usable sample, image tokens included, before anything is cut; empty where nothing was rendered."""
    counts: Counter[str] = field(default_factory=Counter)
    """Findings of each kind."""
    findings: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding, file: str) -> None:
        """Count a finding in a file, and keep it if there is room."""
        self.files[file].kinds.add(finding.kind)
        if self.places is None or self.counts[finding.kind] < self.places:
            self.findings.append(finding)
        self.counts[finding.kind] += 1

    @property
    def supervised_share(self) -> float:
        """Supervised tokens of all tokens, 0 to 1."""
        return self.num_supervised / self.num_tokens if self.num_tokens else 0.0

    def level_of(self, kind: str) -> Literal["error", "warning"]:
        """Whether findings of this kind stop a training."""
        among = [counts for counts in self.files.values() if kind in counts.kinds]
        is_skipped = kind in SKIPPABLE and all(counts.is_skipped(self.max_bad_share) for counts in among)
        return "warning" if is_skipped else DEFECTS[kind].level

    @property
    def samples_of(self) -> dict[str, int]:
        """Usable samples by file."""
        return {file: counts.num_samples for file, counts in self.files.items()}

    @property
    def has_errors(self) -> bool:
        """Training would stop, or nothing is left to train on."""
        return not self.num_samples or any(self.level_of(kind) == "error" for kind in self.counts)

    def by_kind(self) -> dict[str, list[Finding]]:
        """The kept findings of each kind that occurs, worst kind first, in file order."""
        groups = {kind: [finding for finding in self.findings if finding.kind == kind] for kind in DEFECTS}
        return {kind: group for kind, group in groups.items() if self.counts[kind]}

    def length_at(self, share: float) -> int:
        """The length that `share` (0 to 1) of the samples do not exceed; 0 without samples."""
        if not self.lengths:
            return 0
        return sorted(self.lengths)[max(0, math.ceil(share * len(self.lengths)) - 1)]
