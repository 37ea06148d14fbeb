"""The answers of a work dir: its own append-only record."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtool.utils.files import naming, sync, write_text

SYNC_EVERY = 1.0  # seconds


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        key: of what was asked: row, prompt, model, settings. Empty where a file gave the answer.
        chosen_by: "likelihood" where the model chose among options; empty where it wrote.
    """

    index: int
    prediction: str
    key: str = ""
    chosen_by: str = ""

    def line(self) -> str:
        """The answer as one line of JSON; what is empty is left out."""
        entry: dict[str, Any] = {"index": self.index, "prediction": self.prediction}
        entry |= {name: value for name in ("key", "chosen_by") if (value := getattr(self, name))}
        return json.dumps(entry, ensure_ascii=False) + "\n"


class AnswerStore:
    """`predictions.jsonl` in a work dir, and while several processes answer, `predictions.rankN.jsonl` beside it.

    Each answer is appended once and never changed. Answers to another prompt, model or setting move to
    `predictions.old.jsonl`, from where they are taken again when asked for with the same key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "predictions.jsonl"
        self.old_path = folder / "predictions.old.jsonl"
        self._synced = 0.0

    def rank_path(self, rank: int) -> Path:
        """Where one of several processes appends."""
        return self.folder / f"predictions.rank{rank}.jsonl"

    def append(self, path: Path, answers: Iterable[Answer]) -> None:
        """Add answers at the end of `path`: no kill loses them, a power cut at most those of the last second."""
        with naming(path), open(path, "a", encoding="utf-8") as handle:
            handle.write("".join(answer.line() for answer in answers))
        if time.monotonic() - self._synced >= SYNC_EVERY:  # a disk may need longer for it than a model for an answer
            sync(path)
            self._synced = time.monotonic()

    def settle(self, keys: Mapping[int, str]) -> dict[int, str]:
        """Bring `predictions.jsonl` to the answers whose key is asked for, each once; one process does this at a time.

        Args:
            keys: by index, the key of what is asked now, in the order of the samples.

        Returns:
            By index, the answers at hand.
        """
        found = self._all()
        current = {(answer.index, answer.key): answer for answer in found if keys.get(answer.index) == answer.key}
        wanted = [current[index, key] for index, key in keys.items() if (index, key) in current]
        self._keep(found, wanted)
        return {answer.index: answer.prediction for answer in wanted}

    def others(self, keys: Mapping[int, str]) -> int:
        """How many answers of `predictions.jsonl` are to something else than is asked now."""
        answers = _whole_lines(self.path) if self.path.exists() else ()
        return sum(keys.get(answer.index) != answer.key for answer in answers)

    def settled(self, keys: Mapping[int, str]) -> dict[int, str]:
        """What `settle` returned, read again without changing anything (for the other processes)."""
        answers = _whole_lines(self.path) if self.path.exists() else ()
        return {answer.index: answer.prediction for answer in answers if keys.get(answer.index) == answer.key}

    def replace(self, answers: Sequence[Answer]) -> None:
        """Make given answers the content of `predictions.jsonl`; what stood there moves to `predictions.old.jsonl`."""
        self._keep(self._all(), answers)

    def _keep(self, found: Sequence[Answer], wanted: Sequence[Answer]) -> None:
        # The old ones first: after a kill between the two writes each answer stands in one file at least.
        kept = set(wanted)
        old = list(dict.fromkeys(answer for answer in found if answer not in kept))
        if old or self.old_path.exists():
            write_text(self.old_path, "".join(answer.line() for answer in old))
        write_text(self.path, "".join(answer.line() for answer in wanted))
        for path in self._rank_paths():
            path.unlink()

    def _all(self) -> list[Answer]:
        paths = [self.old_path, self.path, *self._rank_paths()]
        return [answer for path in paths if path.exists() for answer in _whole_lines(path)]

    def _rank_paths(self) -> list[Path]:
        return sorted(self.folder.glob("predictions.rank*.jsonl"))


def _whole_lines(path: Path) -> Iterator[Answer]:
    """The answers of an own file. A line that a kill cut short is no answer yet: its row is asked again."""
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue
        match entry:
            case {"index": int(index), "prediction": str(text)}:
                yield Answer(index, text, str(entry.get("key", "")), str(entry.get("chosen_by", "")))
