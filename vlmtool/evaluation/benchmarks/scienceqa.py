"""ScienceQA: school questions with two to five options, about half of them with a picture.

Source: https://arxiv.org/abs/2209.09513; prompt and reading as in https://github.com/haotian-liu/LLaVA,
llava/eval/eval_science_qa.py.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.evaluation.files.json_files import field_of, read_json
from vlmtool.evaluation.files.llava_files import data_file, entries_of, picture_folder
from vlmtool.evaluation.question_benchmark import QuestionBenchmark
from vlmtool.evaluation.questions import LETTER, Judged, Question, Verdict, mean
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import DataError
from vlmtool.utils.files import write_json

LETTERS = "ABCDE"
_BEGINS = re.compile(r"([A-E])\. ")
_ANSWER_IS = re.compile(r"The answer is ([A-E])\.")
_ANSWER_IS_OPEN = re.compile(r"The answer is ([A-E])")


class ScienceQA(QuestionBenchmark):
    """The test split, from the folder with `problems.json` and `pid_splits.json`, or one of them.

    LLaVA's `llava_test_CQM-A.json` beside these two may be named instead: its prompts are then taken as they stand.
    """

    name: ClassVar[str] = "scienceqa"
    places: ClassVar[tuple[str, ...]] = tuple(f"{folder}/problems.json" for folder in ("scienceqa", "ScienceQA", "sqa"))
    key_fields: ClassVar[tuple[str, ...]] = ("question_id",)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """The problems, beside their splits."""
        return path.name == "problems.json" and (path.parent / "pid_splits.json").is_file()

    def read(self) -> list[Question]:
        """The questions of the test split, or of LLaVA's file."""
        folder = data_file(self.data_path, ("problems.json",)).parent
        path = data_file(folder, ("problems.json",))
        problems = read_json(path)
        prompts = self._prompts(folder)
        missing = [key for key in prompts if not isinstance(problems, dict) or key not in problems]
        if missing:
            raise DataError(
                f"{path}: lacks {counted(len(missing), 'problem')} of the split, the first is {missing[0]}. "
                "Take both files from one download."
            )
        pictures = (f"{key}/{problems[key]['image']}" for key in prompts if _has_picture(problems[key]))
        images = picture_folder(
            self.options.image_folder, folder, ("images/test", "test", "images"), next(pictures, "")
        )
        return [
            _question(index, key, text, problems[key], images, f"{path}: problem {key}")
            for index, (key, text) in enumerate(prompts.items())
        ]

    def _prompts(self, folder: Path) -> dict[str, str | None]:
        """By problem, in order: LLaVA's own text, or None where it is to be made."""
        named = self.data_path
        if named.is_file() and named.name not in ("problems.json", "pid_splits.json"):
            return _llava_prompts(named)
        path = data_file(folder, ("pid_splits.json",))
        splits = read_json(path)
        keys = splits.get("test") if isinstance(splits, dict) else None
        if not isinstance(keys, list):
            raise DataError(f"{path}: no list 'test' of problems. Download the file again.")
        if len(set(map(str, keys))) < len(keys):
            raise DataError(f"{path}: a problem stands in 'test' twice. Keep one of each.")
        return {str(key): None for key in keys}

    def judge(self, question: Question, prediction: str) -> Verdict:
        """Right if its letter is the answer's; anything else is wrong."""
        letter = read_letter(prediction)
        if letter not in question.about["options"]:
            letter = None
        return Verdict(letter, float(letter in question.answers))

    def total(self, judged: Judged) -> dict[str, Any]:
        """Accuracy in percent: of all questions, and of those with a picture."""
        of_pictures = [verdict.credit or 0.0 for question, verdict in judged if question.picture is not None]
        scores = {"total": 100 * mean(verdict.credit or 0.0 for _, verdict in judged)}
        return scores | ({"image": 100 * mean(of_pictures)} if of_pictures else {})

    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """That of the questions with a picture, as papers on vision-language models quote it."""
        return ("image", scores["image"]) if "image" in scores else ("total", scores["total"])

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """`scienceqa_result.json` as LLaVA's script writes it: option numbers by problem, -1 for none, and answers."""
        results = {}
        for question in self.questions:
            letter = self.judge(question, predictions.get(question.index, "")).extracted
            results[question.key[0]] = LETTERS.index(letter) if letter else -1
        outputs = {question.key[0]: predictions.get(question.index, "") for question in self.questions}
        path = folder / "scienceqa_result.json"
        write_json(path, {"results": results, "outputs": outputs})
        return path


def read_letter(prediction: str) -> str | None:
    """`X`, else `X. ` at the beginning, else "The answer is X."; a line break counts as ". "."""
    said = prediction.replace("\n", ". ")
    if said.strip() in set(LETTERS):
        return said.strip()
    match = _BEGINS.match(said) or _ANSWER_IS.search(said) or _ANSWER_IS_OPEN.search(said)
    return match.group(1) if match else None


def _has_picture(problem: Any) -> bool:
    return isinstance(problem, dict) and bool(problem.get("image"))


def _question(index: int, key: str, text: str | None, problem: Any, images: Path, where: str) -> Question:
    asked = field_of(problem, "question", where)
    choices = problem.get("choices")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise DataError(f"{where}: 'choices' is not a list of two to five options. Download the file again.")
    options = dict(zip(LETTERS, map(str, choices), strict=False))
    number = problem.get("answer")
    if number is not None and (not isinstance(number, int) or number not in range(len(choices))):
        raise DataError(f"{where}: 'answer' is {str(number)[:40]}, which is none of its options. Correct it.")
    lines = [f"Context: {problem['hint']}"] if problem.get("hint") else []
    lines += [asked, *(f"{letter}. {option}" for letter, option in options.items())]
    return Question(
        index,
        (key,),
        (text or "\n".join(lines)) + LETTER,
        images / key / str(problem["image"]) if _has_picture(problem) else None,
        () if number is None else (LETTERS[number],),
        str(problem.get("subject", "")),
        {"options": options},
    )


def _llava_prompts(path: Path) -> dict[str, str | None]:
    prompts: dict[str, str | None] = {}
    for where, entry in entries_of(read_json(path), path):
        key = field_of(entry, "id", where)
        turns = entry.get("conversations")
        text = field_of(turns[0] if isinstance(turns, list) and turns else None, "value", where)
        if key in prompts:
            raise DataError(f"{where}: problem {key} stands there already. Keep one of each.")
        prompts[key] = text.replace("<image>", "").strip()
    return prompts
