"""A judge model that grades answers: asked once for each prompt, every reply kept on disk."""

import hashlib
import json
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vlmtool.evaluation.judging.chat_api import ChatClient, Unanswered
from vlmtool.utils.errors import UsageError, VlmtoolError
from vlmtool.utils.files import sync, sync_folder

T = TypeVar("T")

KEY_NAMES = ("VLMTOOL_JUDGE_KEY", "OPENAI_API_KEY")
RECORD_FILE = "judge.jsonl"
TRIES = 3
SECONDS = 120.0  # that the judge may be silent
LONGEST_WAIT = 60.0  # seconds, whatever the judge asks for
GIVE_UP = 5  # questions in a row without a reply: the rest would fare no better
UNREADABLE = "a reply without a readable grade"
_THOUGHTS = re.compile(r"^.*</think>", re.DOTALL)  # reasoning models write them before the answer


class ChatJudge:
    """A chat model as judge.

    Replies are appended to `record`, each on disk before the next question, keyed by model and prompt but not by the
    address. A run that was killed, or a second one over the same answers, asks only for what is not there yet.

    Args:
        wait: seconds before the second try, doubled before the third; a server may ask for more.
    """

    def __init__(self, client: ChatClient, record: Path, wait: float = 2.0) -> None:
        self.record = record
        self._client = client
        self._wait = wait
        self._replies = _read_record(record)
        self._in_a_row = 0
        self._counts = Counter(calls=0, cache_hits=0, failures=0)
        self._problems: Counter[str] = Counter()

    def facts(self) -> dict[str, Any]:
        """The model; requests sent, grades already at hand, and questions left without one."""
        facts = {"model": self._client.model, **self._counts}
        return facts | ({"problems": dict(self._problems)} if self._problems else {})

    def check(self) -> None:
        """See that the judge can be reached; one that has graded before is not asked: its replies may be enough.

        Raises:
            UsageError: it cannot.
        """
        if not self._replies:
            self._client.check()

    def grade(self, prompt: str, read: Callable[[str], T | None], reminder: str) -> T | None:
        """What `read` finds in the reply to `prompt`; None, counted as a failure, where three tries bring nothing.

        Args:
            reminder: follows the prompt after a reply that could not be read: a greedy judge would repeat itself.

        Raises:
            UsageError: the judge refuses key, address or model. VlmtoolError: it has stopped answering.
        """
        key = hashlib.sha256(json.dumps([self._client.model, prompt]).encode()).hexdigest()
        for reply in self._replies[key]:
            if (grade := read(_answer(reply))) is not None:
                self._counts["cache_hits"] += 1
                return grade
        asked, problem = prompt, ""
        for number in range(TRIES):
            self._counts["calls"] += 1
            try:
                reply = self._client.ask(asked)
            except Unanswered as error:
                problem = str(error)
                if not error.is_passing:
                    break
                if number + 1 < TRIES:
                    time.sleep(min(LONGEST_WAIT, error.wait or self._wait * 2**number))
                continue
            self._keep(key, reply)
            if (grade := read(_answer(reply))) is not None:
                self._in_a_row = 0
                return grade
            asked, problem = f"{prompt}\n\n{reminder}", UNREADABLE
        self._fail(problem)
        return None

    def _fail(self, problem: str) -> None:
        self._counts["failures"] += 1
        self._problems[problem] += 1
        self._in_a_row = 0 if problem == UNREADABLE else self._in_a_row + 1
        if self._in_a_row == GIVE_UP:
            raise VlmtoolError(
                f"The judge left {GIVE_UP} questions in a row unanswered: {problem}.\n"
                f"Its replies so far are in {self.record}, the model's answers in predictions.jsonl beside it.\n"
                "Run the same command again when the judge answers: nothing is asked twice."
            )

    def _keep(self, key: str, reply: str) -> None:
        self._replies[key].append(reply)
        is_new = not self.record.exists()
        self.record.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "model": self._client.model, "reply": reply})
        with open(self.record, "a+b") as handle:
            # A kill may have cut the last line short: the next one must not grow out of it.
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - 1))
            handle.write((b"\n" if handle.read(1) not in (b"", b"\n") else b"") + line.encode() + b"\n")
        sync(self.record)
        if is_new:
            sync_folder(self.record.parent)


def open_judge(url: str | None, model: str | None, folder: Path, environment: Mapping[str, str]) -> ChatJudge | None:
    """The judge that the command line names, with its record in `folder`; None where it names none.

    Args:
        environment: may hold its key.

    Raises:
        UsageError: one of address and model is missing, or address or key cannot be used.
    """
    if not url and not model:
        return None
    if not url or not model:
        raise UsageError("--judge-url and --judge-model belong together. Give both, or neither.")
    key = next((environment[name] for name in KEY_NAMES if environment.get(name)), None)
    return ChatJudge(ChatClient(url, model, key, SECONDS), folder / RECORD_FILE)


def _answer(reply: str) -> str:
    return _THOUGHTS.sub("", reply).strip()


def _read_record(path: Path) -> defaultdict[str, list[str]]:
    """Replies by key. A line that a kill cut short is none: its question is asked again."""
    replies: defaultdict[str, list[str]] = defaultdict(list)
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        match entry:
            case {"key": str(key), "reply": str(reply)}:
                replies[key].append(reply)
    return replies
