"""VizWiz: what blind people asked about their photos; some cannot be answered, and saying so is the right answer.

Source: https://arxiv.org/abs/1802.08218; the prompt is LLaVA's, the rule TextVQA's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.evaluation.benchmarks.textvqa import read_answers
from vlmtool.evaluation.files.json_files import field_of, read_json
from vlmtool.evaluation.files.llava_files import (
    as_joined,
    data_file,
    entries_of,
    is_question_file,
    picture_folder,
    question_alone,
    read_question_file,
)
from vlmtool.evaluation.question_benchmark import QuestionBenchmark
from vlmtool.evaluation.questions import SHORT, Judged, Question, Verdict, as_key, mean
from vlmtool.evaluation.reading.vqa_text import normalize_answer, soft_accuracy
from vlmtool.utils.errors import DataError
from vlmtool.utils.files import write_json

UNANSWERABLE = "unanswerable"
_HINT = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
_DATA = ("val.json", "test.json", "Annotations/val.json", "Annotations/test.json")


class VizWiz(QuestionBenchmark):
    """VizWiz.

    Args:
        data_path: `val.json` (scored) or `test.json` (for the server), a folder with them, or LLaVA's question file.
    """

    name = "vizwiz"
    places = tuple(
        f"{folder}/{part}{split}.json"
        for folder in ("vizwiz", "VizWiz")
        for part in ("", "Annotations/")
        for split in ("val", "test")
    )
    key_fields: ClassVar[tuple[str, ...]] = ("image",)

    def read(self) -> list[Question]:
        """The questions in the order of the file."""
        if is_question_file(self.data_path):
            asked = read_question_file(self.data_path)
            self._image_of = {as_key(one.question_id): one.image for one in asked}
            entries = [
                (str(self.data_path), {"image": one.image, "question": question_alone(one.text)}) for one in asked
            ]
        else:
            path = data_file(self.data_path, _DATA)
            entries = entries_of(read_json(path), path)
            self._image_of = {}
        pictures: Path | None = None
        questions = []
        for index, (where, entry) in enumerate(entries):
            image, text = field_of(entry, "image", where), field_of(entry, "question", where)
            pictures = pictures or self._pictures(image)
            about = {"question": text, "answerable": _answerable(entry, where)}
            answers = read_answers(entry, where)
            questions.append(
                Question(index, (image,), text.capitalize() + _HINT + SHORT, pictures / image, answers, about=about)
            )
        return questions

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A file called like the official one whose first picture is VizWiz's."""
        if path.name not in ("val.json", "test.json") or not path.is_file():
            return False
        with open(path, "rb") as handle:
            return b"VizWiz_" in handle.read(2000)

    def key_of(self, entry: Mapping[str, Any]) -> tuple[str, ...] | None:
        """By picture, each of which has one question; LLaVA's answers have their place in the test split instead."""
        if "image" in entry or "question_id" not in entry:
            return super().key_of(entry)
        name = as_key(entry["question_id"])
        if not name.isdecimal():
            return (name,)
        if self._image_of:
            return (self._image_of.get(name, ""),)
        if int(name) >= len(self.questions):
            return ("",)
        question = self.questions[int(name)]
        prompt = entry.get("prompt")
        if not isinstance(prompt, str) or as_joined(question_alone(prompt)) != as_joined(question.about["question"]):
            raise DataError(f"question_id {name} is another question here. Name the picture: 'image'.")
        return question.key

    def judge(self, question: Question, prediction: str) -> Verdict:
        """The share of the ten people, each left out in turn, whom the answer agrees with."""
        return Verdict(normalize_answer(prediction), soft_accuracy(prediction, question.answers))

    def total(self, judged: Judged) -> dict[str, Any]:
        """The mean, in percent."""
        return {"accuracy": 100 * mean(verdict.credit or 0.0 for _, verdict in judged)}

    def extra(self, judged: Judged) -> dict[str, Any]:
        """Did the model see which questions can be answered? Precision, recall and F1 of "it can", in percent."""
        known = [(bool(question.about["answerable"]), verdict) for question, verdict in judged
                 if question.about["answerable"] is not None]  # fmt: skip
        if not known:
            return {}
        answered = [can for can, verdict in known if verdict.extracted not in (None, UNANSWERABLE)]
        hits, can_be = sum(answered), sum(can for can, _ in known)
        values = {
            "precision": hits / len(answered) if answered else 0.0,
            "recall": hits / can_be if can_be else 0.0,
            "f1": 2 * hits / (len(answered) + can_be) if answered or can_be else 0.0,
        }
        return {"answerability": {name: 100 * value for name, value in values.items()}}

    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """The accuracy."""
        return "accuracy", scores["accuracy"]

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """`vizwiz_submission.json`, for EvalAI: a list of image and answer, spelled as answers are compared."""
        path = folder / "vizwiz_submission.json"
        write_json(path, [
            {"image": question.key[0], "answer": normalize_answer(predictions.get(question.index, ""))}
            for question in self.questions
        ])  # fmt: skip
        return path

    def _pictures(self, image: str) -> Path:
        """`VizWiz_val_00000000.jpg` is in `val/`, beside the annotations or beside their folder."""
        near = self.data_path if self.data_path.is_dir() else self.data_path.parent
        split = image.split("_")[1] if image.count("_") == 2 else self.data_path.stem
        return picture_folder(self.options.image_folder, near, (split, "images"), image)


def _answerable(entry: Mapping[str, Any], where: str) -> int | None:
    value = entry.get("answerable")
    if value not in (None, 0, 1):
        raise DataError(f"{where}: 'answerable' is neither 0 nor 1. Download the file again.")
    return None if value is None else int(value)
