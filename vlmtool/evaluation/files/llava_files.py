"""Question files and folders as LLaVA's `eval.zip` and MobileVLM's `benchmark_data` have them.

Source: docs/Evaluation.md of https://github.com/haotian-liu/LLaVA, README.md of
https://github.com/Meituan-AutoML/MobileVLM.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtool.evaluation.files.json_files import field_of, read_json_lines
from vlmtool.utils.errors import DataError

OCR_TOKENS = "Reference OCR token:"
_NOT_THE_QUESTION = (
    "<image>",
    OCR_TOKENS,
    "Answer the question using a single word or phrase.",
    "When the provided information is insufficient,",
)


@dataclass(frozen=True)
class AskedQuestion:
    """One line of a question file. `text` is all that the model reads; `image` is a path below the picture folder."""

    question_id: str
    image: str
    text: str
    category: str


def read_question_file(path: Path) -> list[AskedQuestion]:
    """Read JSON Lines of question_id, image, text and perhaps category.

    Raises:
        DataError: a line is broken; the message names it.
    """
    asked = []
    for line, entry in read_json_lines(path):
        question_id, image, text = (
            field_of(entry, name, f"{path}:{line}") for name in ("question_id", "image", "text")
        )
        asked.append(AskedQuestion(question_id, image, text, str(entry.get("category", ""))))
    return asked


def is_question_file(path: Path) -> bool:
    """Official annotations end in .json, question files in .jsonl."""
    return path.suffix == ".jsonl"


def question_alone(prompt: str) -> str:
    """The question of a prompt, without the recognised text and without how to answer."""
    lines = [line for line in prompt.split("\n") if not line.startswith(_NOT_THE_QUESTION)]
    return "\n".join(lines)


def as_joined(question: str) -> str:
    """A question as it is compared: tools differ in case and spaces."""
    return " ".join(question.lower().split())


def first_file(folder: Path, patterns: Sequence[str]) -> Path | None:
    """The first file below `folder` that one of the patterns names; patterns in order."""
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()), None)


def data_file(data_path: Path, patterns: Sequence[str]) -> Path:
    """`data_path` itself, or the official file in that folder.

    Raises:
        DataError: the folder has none.
    """
    if not data_path.is_dir():
        return data_path
    found = first_file(data_path, patterns)
    if found is None:
        raise DataError(f"{data_path}: has none of {', '.join(patterns)}. Give the folder or the file that has it.")
    return found


def picture_folder(given: Path | None, near: Path, names: Iterable[str], picture: str) -> Path:
    """Where the pictures are: the first place that has `picture`; else the given folder, or the first place.

    Args:
        given: what the user named; may also be the folder above.
        near: the folder of the annotations.
        names: folders that hold the pictures in official archives and bundles, the likeliest first.
        picture: one of them, relative to its folder.
    """
    names = list(names)
    roots = [given] if given else [near, near.parent]
    own = roots if given else []
    places = [*own, *(root / name for root in roots for name in names), *([] if given else [near])]
    return next((place for place in places if (place / picture).is_file()), places[0])


def entries_of(content: Any, where: Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a JSON list, each with its place for an error.

    Raises:
        DataError: it is no list of objects.
    """
    if not isinstance(content, list):
        raise DataError(f"{where}: not a list of questions. Give the official file.")
    for number, entry in enumerate(content, start=1):
        if not isinstance(entry, dict):
            raise DataError(f"{where}: question {number} is not a JSON object. Download the file again.")
    return [(f"{where}: question {number}", entry) for number, entry in enumerate(content, start=1)]
