"""GQA: compositional questions about real pictures, one right word each.

Source: https://arxiv.org/abs/1902.09506; the rule is LLaVA's scripts/convert_gqa_for_eval.py before GQA's eval.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.evaluation.files.json_files import field_of, read_json
from vlmtool.evaluation.files.llava_files import (
    data_file,
    first_file,
    is_question_file,
    picture_folder,
    question_alone,
    read_question_file,
)
from vlmtool.evaluation.question_benchmark import QuestionBenchmark
from vlmtool.evaluation.questions import SHORT, Judged, Question, Verdict, as_key, mean
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import DataError
from vlmtool.utils.files import write_json

_NAME = "testdev_balanced_questions.json"
_DATA = (_NAME, f"questions1.2/{_NAME}", f"data/{_NAME}", f"data/questions1.2/{_NAME}")


class GQA(QuestionBenchmark):
    """GQA.

    Args:
        data_path: `testdev_balanced_questions.json`, a folder with it, or LLaVA's question file beside it.
    """

    name = "gqa"
    places = (_NAME,)
    key_fields: ClassVar[tuple[str, ...]] = ("questionId",)

    def read(self) -> list[Question]:
        """The questions in the order of the file."""
        if is_question_file(self.data_path):
            questions = self._of_question_file()
        else:
            path = data_file(self.data_path, _DATA)
            questions = self._of_annotations(path)
        untyped = sum(question.about["type"] is None for question in questions if question.answers)
        if untyped:
            self.counts["questions_without_type"] = untyped
            self.warnings.append(
                f"{counted(untyped, 'question')} without a type: those answered by yes or no count as binary"
            )
        return questions

    def key_of(self, entry: Mapping[str, Any]) -> tuple[str, ...] | None:
        """By questionId; LLaVA's answers call it question_id."""
        if "questionId" not in entry and "question_id" in entry:
            return (as_key(entry["question_id"]),)
        return super().key_of(entry)

    def judge(self, question: Question, prediction: str) -> Verdict:
        """The very word, but for full stops at the end and capitals."""
        said = _as_compared(prediction)
        return Verdict(said, float(said in question.answers))

    def total(self, judged: Judged) -> dict[str, Any]:
        """Percent of right answers: of all questions, of those that name the choices, and of open ones."""
        binary = [verdict.credit or 0.0 for question, verdict in judged if _is_binary(question)]
        opened = [verdict.credit or 0.0 for question, verdict in judged if not _is_binary(question)]
        return {
            "accuracy": 100 * mean([*binary, *opened]),
            "binary": 100 * mean(binary),
            "open": 100 * mean(opened),
        }

    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """The accuracy."""
        return "accuracy", scores["accuracy"]

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """`testdev_balanced_predictions.json`, for GQA's eval.py: a list of questionId and prediction."""
        path = folder / "testdev_balanced_predictions.json"
        write_json(path, [
            {"questionId": question.key[0], "prediction": _as_compared(predictions.get(question.index, ""))}
            for question in self.questions
        ])  # fmt: skip
        return path

    def _of_annotations(self, path: Path) -> list[Question]:
        pictures: Path | None = None
        questions = []
        for index, (name, entry) in enumerate(_annotations(path).items()):
            where = f"{path}: question {name}"
            text, image = field_of(entry, "question", where), f"{field_of(entry, 'imageId', where)}.jpg"
            pictures = pictures or picture_folder(self.options.image_folder, path.parent, ("images",), image)
            questions.append(
                Question(
                    index, (as_key(name),), text + SHORT, pictures / image, _answers(entry, where),
                    _type(entry) or "", {"question": text, "type": _type(entry)},
                )
            )  # fmt: skip
        return questions

    def _of_question_file(self) -> list[Question]:
        """Its questions, with the answers of the annotations near it."""
        near = self.data_path.parent
        truth = first_file(near, _DATA)
        known = _annotations(truth) if truth else {}
        pictures: Path | None = None
        questions = []
        for index, one in enumerate(read_question_file(self.data_path)):
            name = as_key(one.question_id)
            entry = known.get(name, {})
            pictures = pictures or picture_folder(self.options.image_folder, near, ("images", "data/images"), one.image)
            about = {"question": question_alone(one.text), "type": _type(entry)}
            answers = _answers(entry, f"{truth}: question {name}")
            questions.append(
                Question(index, (name,), one.text, pictures / one.image, answers, _type(entry) or "", about)
            )
        return questions


def _annotations(path: Path) -> dict[str, dict[str, Any]]:
    content = read_json(path, unique_names=True)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not an object of questions by id. Give the official {_NAME}.")
    for name, entry in content.items():
        if not isinstance(entry, dict):
            raise DataError(f"{path}: question {name} is not a JSON object. Download the file again.")
    return content


def _answers(entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
    return (field_of(entry, "answer", where),) if entry.get("answer") is not None else ()


def _type(entry: Mapping[str, Any]) -> str | None:
    """The structural type: verify, query, choose, logical or compare."""
    types = entry.get("types")
    return str(types["structural"]) if isinstance(types, dict) and "structural" in types else None


def _is_binary(question: Question) -> bool:
    """GQA's eval.py calls every question open that is a query, and binary the others."""
    kind = question.about["type"]
    return bool({"yes", "no"} & set(question.answers)) if kind is None else kind != "query"


def _as_compared(text: str) -> str:
    return text.rstrip(".").lower()
