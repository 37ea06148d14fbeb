"""What a data check finds: kinds of defects, where they are, and how long samples are."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Defect:
    """A way in which data can be wrong: whether it stops a training, what it is called, how it is mended."""

    level: Literal["error", "warning"]
    title: str
    remedy: str


# Worst first, which is the order of the report.
DEFECTS: dict[str, Defect] = {
    "file": Defect("error", "file broken from here on", "write or copy the file again; it is UTF-8 and valid JSON"),
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
    for known in (f"{origin}: ", f"sample '{sample_id}'", ":", " "):
        text = text.removeprefix(known)
    return Finding(kind, origin, sample_id, text)


@dataclass
class CheckReport:
    """What was found.

    Args:
        places: how many findings of each kind are kept; None for all. All are counted.
        max_bad_share: share of records that may be bad without ending a training, which then skips them; 0 to 1.
    """

    places: int | None = None
    max_bad_share: float = 0.0
    num_records: int = 0
    num_bad: int = 0
    """Records that a training skips or stops at."""
    num_samples: int = 0
    """Samples that training would use."""
    samples_of: dict[str, int] = field(default_factory=dict)
    """The same by file."""
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

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it if there is room."""
        if self.places is None or self.counts[finding.kind] < self.places:
            self.findings.append(finding)
        self.counts[finding.kind] += 1

    @property
    def supervised_share(self) -> float:
        """Supervised tokens of all tokens, 0 to 1."""
        return self.num_supervised / self.num_tokens if self.num_tokens else 0.0

    def level_of(self, kind: str) -> Literal["error", "warning"]:
        """Whether findings of this kind stop a training."""
        is_skipped = kind in SKIPPABLE and 0 < self.num_bad <= self.max_bad_share * self.num_records
        return "warning" if is_skipped else DEFECTS[kind].level

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
