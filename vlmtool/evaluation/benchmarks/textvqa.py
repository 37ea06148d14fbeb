"""TextVQA: questions about the text in a picture, worth what ten people answered.

Source: https://arxiv.org/abs/1904.08920; prompt, join and rule are LLaVA's (llava/eval/eval_textvqa.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.evaluation.files.json_files import field_of, read_json
from vlmtool.evaluation.files.llava_files import (
    OCR_TOKENS,
    as_joined,
    data_file,
    entries_of,
    first_file,
    is_question_file,
    picture_folder,
    question_alone,
    read_question_file,
)
from vlmtool.evaluation.question_benchmark import QuestionBenchmark
from vlmtool.evaluation.questions import SHORT, Judged, Question, Verdict, as_key, mean
from vlmtool.evaluation.reading.vqa_text import normalize_answer, soft_accuracy
from vlmtool.utils.errors import DataError, UsageError
from vlmtool.utils.files import write_json

_DATA = ("TextVQA_0.5.1_val.json", "TextVQA_0.5.1_*.json", "TextVQA_*_val.json")
_QUESTION_FILES = ("llava_textvqa_val_*ocr.jsonl",)
_OCR_FILES = ("TextVQA_Rosetta_OCR_*_val.json",)
FEWEST_ANSWERS = 4  # of fewer, no answer can be worth everything once one is left out


class TextVQA(QuestionBenchmark):
    """TextVQA.

    Args:
        data_path: `TextVQA_0.5.1_val.json`, the folder that holds it, or LLaVA's question file beside it.
    """

    name = "textvqa"
    places = (_DATA[0],)
    key_fields: ClassVar[tuple[str, ...]] = ("question_id",)

    def read(self) -> list[Question]:
        """The questions, with the recognised text where that is asked for."""
        path = self.data_path
        if not is_question_file(path):
            path = data_file(path, _DATA)
            questions = self._of_annotations(path)
        else:
            questions = self._of_question_file()
        self._by_question = {
            (str(question.about["image_id"]), as_joined(question.about["question"])): question.key
            for question in questions
        }
        return questions

    def options_used(self) -> frozenset[str]:
        """Recognised text is TextVQA's alone."""
        return super().options_used() | {"--ocr-tokens"}

    def key_of(self, entry: Mapping[str, Any]) -> tuple[str, ...] | None:
        """By question_id; LLaVA's answers have the picture there, and the question in the prompt."""
        prompt = entry.get("prompt", entry.get("question"))
        image = entry.get("image_id", entry.get("question_id"))
        if isinstance(prompt, str) and image is not None:
            key = self._by_question.get((str(image), as_joined(question_alone(prompt))))
            if key is not None:
                return key
        return super().key_of(entry)

    def judge(self, question: Question, prediction: str) -> Verdict:
        """The share of the ten people, each left out in turn, whom the answer agrees with."""
        return Verdict(normalize_answer(prediction), soft_accuracy(prediction, question.answers))

    def total(self, judged: Judged) -> dict[str, Any]:
        """The mean, in percent."""
        return {"accuracy": 100 * mean(verdict.credit or 0.0 for _, verdict in judged)}

    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """The accuracy."""
        return "accuracy", scores["accuracy"]

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """`textvqa_submission.json`, for EvalAI: a list of question_id and answer."""
        path = folder / "textvqa_submission.json"
        write_json(path, [
            {"question_id": question.about["question_id"], "answer": predictions.get(question.index, "")}
            for question in self.questions
        ])  # fmt: skip
        return path

    def _of_annotations(self, path: Path) -> list[Question]:
        entries = _annotations(path)
        recognised = self._recognised(path, entries) if self.options.ocr_tokens else {}
        pictures: Path | None = None
        questions = []
        for index, (where, entry) in enumerate(entries):
            question, image = field_of(entry, "question", where), field_of(entry, "image_id", where)
            pictures = pictures or self._pictures(path.parent, f"{image}.jpg", entry)
            tokens = recognised.get((image, as_joined(question)), recognised.get((image, ""), ""))
            line = f"\n{OCR_TOKENS} {tokens}" if self.options.ocr_tokens else ""
            question_id = field_of(entry, "question_id", where)
            about = {"question": question, "image_id": image, "question_id": entry["question_id"]}
            questions.append(
                Question(
                    # LLaVA's question file has every question with one capital, at the start.
                    index, (as_key(question_id),), question.capitalize() + line + SHORT, pictures / f"{image}.jpg",
                    read_answers(entry, where), about=about,
                )
            )  # fmt: skip
        return questions

    def _of_question_file(self) -> list[Question]:
        """Its questions, with the answers of the annotations near it."""
        truth = first_file(self.data_path.parent, _DATA)
        known = {
            (str(entry.get("image_id")), as_joined(str(entry.get("question")))): (where, entry)
            for where, entry in (_annotations(truth) if truth else ())
        }
        pictures: Path | None = None
        questions = []
        for index, one in enumerate(read_question_file(self.data_path)):
            alone = question_alone(one.text)
            where, entry = known.get((one.question_id, as_joined(alone)), ("", {}))
            pictures = pictures or self._pictures(self.data_path.parent, one.image, entry)
            question_id = entry.get("question_id", f"{one.question_id} {as_joined(alone)}")
            about = {"question": alone, "image_id": one.question_id, "question_id": question_id}
            text = one.text if self.options.ocr_tokens else alone + SHORT
            answers = read_answers(entry, where)
            questions.append(Question(index, (as_key(question_id),), text, pictures / one.image, answers, about=about))
        return questions

    def _recognised(self, path: Path, entries: Sequence[tuple[str, dict]]) -> dict[tuple[str, str], str]:
        """Recognised text by picture and question, or by picture alone: of the data, LLaVA's or Rosetta's file."""
        own = {
            (str(entry.get("image_id")), ""): _listed(entry["ocr_tokens"], where)
            for where, entry in entries
            if "ocr_tokens" in entry
        }
        if own:
            return own
        question_file = first_file(path.parent, _QUESTION_FILES)
        if question_file:
            return {
                (one.question_id, as_joined(question_alone(one.text))): _tokens_of(one.text)
                for one in read_question_file(question_file)
            }
        ocr_file = first_file(path.parent, _OCR_FILES)
        if ocr_file:
            return {
                (field_of(entry, "image_id", where), ""): _listed(entry.get("ocr_tokens"), where)
                for where, entry in _annotations(ocr_file)
            }
        raise UsageError(
            f"--ocr-tokens: no recognised text beside {path}.\n"
            f"Put {_QUESTION_FILES[0]} of LLaVA's eval.zip or {_OCR_FILES[0]} there, or leave the option out."
        )

    def _pictures(self, near: Path, image: str, entry: Mapping[str, Any]) -> Path:
        names = ("train_images", "train_val_images/train_images", "test_images", "images")
        is_test = entry.get("set_name") == "test"
        return picture_folder(self.options.image_folder, near, names[2:] if is_test else names, image)


def read_answers(entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """What people answered, as texts or as VizWiz's objects; none for a test split.

    Raises:
        DataError: something else stands there, or too few answers to leave one out.
    """
    given = entry.get("answers") or []
    answers = [one.get("answer") if isinstance(one, dict) else one for one in given] if isinstance(given, list) else []
    texts = tuple(answer for answer in answers if isinstance(answer, str))
    if given and (len(texts) < len(answers) or len(texts) < FEWEST_ANSWERS):
        raise DataError(
            f"{where}: 'answers' is not a list of {FEWEST_ANSWERS} or more texts (10 in the official file)."
        )
    return texts


def _annotations(path: Path) -> list[tuple[str, dict]]:
    content = read_json(path)
    return entries_of(content.get("data") if isinstance(content, dict) else content, path)


def _listed(tokens: Any, where: str) -> str:
    if not isinstance(tokens, list):
        raise DataError(f"{where}: 'ocr_tokens' is not a list of texts. Download the file again.")
    return ", ".join(map(str, tokens))


def _tokens_of(prompt: str) -> str:
    line = next((line for line in prompt.split("\n") if line.startswith(OCR_TOKENS)), OCR_TOKENS)
    return line.removeprefix(OCR_TOKENS).strip()
