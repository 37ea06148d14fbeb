"""What can be known of a data set before training: all that is wrong, each with its place, and how long samples are."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from vlmtool.data.check_record import Answer, Checker, RecordFacts, Source, Task
from vlmtool.data.check_report import SKIPPABLE, CheckReport, FileCounts, Finding, finding
from vlmtool.data.formats.file_head import WrongFile, no_records
from vlmtool.data.formats.json_stream import BLOCK, Record, num_blocks, read_blocks
from vlmtool.data.formats.llava import image_paths
from vlmtool.utils.errors import DataError, message_lines, shortened
from vlmtool.utils.terminal import track
from vlmtool.utils.workers import num_cores, ordered_map

SMALL = 4 * BLOCK  # bytes, some thousands of records: starting processes would take longer than it saves
MOST_WORKERS = 16  # beyond that, reading the file is what takes the time


def check_data(
    sources: Sequence[Source],
    deep: bool = False,
    limit: int | None = None,
    places: int | None = None,
    max_bad_share: float = 0.0,
    num_workers: int | None = None,
) -> CheckReport:
    """Read every record, render it, and look at its images, each file of which is opened once.

    Args:
        sources: the training files and, where there is one, the held-out file.
        deep: decode each image whole, not only its header.
        limit: records of each file that are looked at; None for all.
        places, max_bad_share: of the report.
        num_workers: processes; None for as many as there are cores, or one for small files. The report is the same.

    Raises:
        UsageError: there is no such file. VlmtoolError: a worker was killed.
    """
    sizes = [source.path.stat().st_size for source in sources if source.path.is_file()]
    if num_workers is None:
        num_workers = min(num_cores(), MOST_WORKERS) if max(sizes, default=0) > SMALL and limit is None else 1
    ledger = _Ledger(CheckReport(places, max_bad_share))
    with ordered_map(partial(Checker, sources, deep), num_workers) as run:
        for number, source in enumerate(sources):
            ledger.check_file(number, source, run, limit)
    return ledger.report


class _Ledger:
    """What is remembered from record to record: ids and contents seen, images looked at."""

    def __init__(self, report: CheckReport) -> None:
        self.report = report
        # By image folder, as a path says something in its own folder only.
        self._contents: defaultdict[Path, dict[bytes, str]] = defaultdict(dict)
        self._images: defaultdict[Path, set[str]] = defaultdict(set)
        self._bad_images: defaultdict[Path, dict[str, tuple[str, str]]] = defaultdict(dict)

    def check_file(
        self, number: int, source: Source, run: Callable[[Iterable[Task]], Iterator[Answer]], limit: int | None
    ) -> None:
        """Every record of a file; one that cannot be read is noted and passed."""
        path, folder = source.path, source.image_folder
        ids: dict[str, str] = {}
        before = self.report.num_records
        self.report.files[str(path)] = FileCounts()
        try:
            blocks = read_blocks(path) if limit is None else _first(read_blocks(path), limit)
            tasks = (Task(block, self._new_images(block, folder), number) for block in blocks)
            for answer in track(run(tasks), num_blocks(path), f"Checking {path.name}, MB"):
                self._bad_images[folder] |= answer.bad_images
                for facts in answer.facts:
                    self._add(facts, ids, str(path), folder)
            if self.report.num_records == before:
                raise no_records(path)
        except DataError as error:  # the file is broken from here on
            kind = "wrong_file" if isinstance(error, WrongFile) else "file"
            self.report.add(finding(kind, str(path), "", " ".join(message_lines(error))), str(path))

    def _new_images(self, records: Sequence[Record], folder: Path) -> list[str]:
        found = dict.fromkeys(path for record in records for path in image_paths(record.value))
        new = [path for path in found if path not in self._images[folder]]
        self._images[folder].update(new)
        return new

    def _add(self, facts: RecordFacts, ids: dict[str, str], file: str, folder: Path) -> None:
        """Enter a record of a file; records come in file order."""
        report, place = self.report, (facts.origin, shortened(facts.sample_id))
        report.num_records += 1
        if facts.own_id and (first := ids.setdefault(facts.own_id, facts.origin)) != facts.origin:
            report.add(Finding("duplicate_id", *place, f"first used at {first}"), file)
        contents, bad_images = self._contents[folder], self._bad_images[folder]
        if facts.content and (first := contents.setdefault(facts.content, facts.origin)) != facts.origin:
            report.add(Finding("duplicate_record", *place, f"same images and turns as {first}"), file)
        bad = [bad_images[image] for image in facts.images if image in bad_images]
        for kind, detail in bad:
            report.add(Finding(kind, *place, detail), file)
        for found in facts.findings:
            report.add(found, file)
        report.files[file].num_bad += bool(bad) or any(found.kind in SKIPPABLE for found in facts.findings)
        if facts.is_usable and not bad:
            report.num_samples += 1
            report.files[file].num_samples += 1
            report.num_images += facts.num_images
            if facts.length:
                report.lengths.append(facts.length)
            report.num_tokens += facts.num_tokens
            report.num_supervised += facts.num_supervised


def _first(blocks: Iterable[list[Record]], limit: int) -> Iterator[list[Record]]:
    """The first `limit` records."""
    for block in blocks:
        yield block[:limit]
        limit -= len(block)
        if limit <= 0:
            return
