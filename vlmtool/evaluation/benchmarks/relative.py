"""The relative score of LLaVA and X-LLM: a judge grades the model's answers beside those of a reference model.

The judge sees captions and boxes in place of the picture, the question and both answers, and gives each 1 to 10 points.
The score is 100 * the model's points / the reference's points. Sources: https://arxiv.org/abs/2304.08485, section 5.1
(90 questions about 30 pictures of COCO); https://arxiv.org/abs/2305.04160, section 4; the file forms are those of
https://github.com/haotian-liu/LLaVA, llava/eval/eval_gpt_review_visual.py. A review that cannot be read enters there as
-1 points for both; here it is asked for again, and left out and told if that fails.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.evaluation.benchmark import Judge, Scores
from vlmtool.evaluation.files.json_files import field_of, read_json_lines
from vlmtool.evaluation.files.llava_files import data_file, first_file, picture_folder
from vlmtool.evaluation.judging.judged import JudgedBenchmark
from vlmtool.evaluation.questions import Judged, Question, Verdict, as_key
from vlmtool.utils.errors import DataError
from vlmtool.utils.files import write_text

QUESTIONS = ("qa90_questions.jsonl", "questions.jsonl", "*questions*.jsonl")
REFERENCES = ("qa90_gpt4_answer.jsonl", "answers_gpt4.jsonl", "*gpt4*answer*.jsonl")
CONTEXTS = ("caps_boxes_coco2014_val_80.jsonl", "context.jsonl", "caps_boxes*.jsonl")
PICTURES = ("images", "val2014", "coco2014_val", "coco/val2014")
REMINDER = "Begin with one line of two numbers from 1 to 10, the points of answer 1 and of answer 2, and nothing else."
_PROMPT = """\
Two assistants answered a question about a picture. You cannot see it; this describes what it shows. Boxes are given \
as [left, top, right, bottom] in shares of width and height.

{context}

Question: {question}

--- Answer 1 ---
{reference}
--- Answer 2 ---
{prediction}
--- End of the answers ---

Judge how helpful, relevant, accurate and detailed each answer is, and give it 1 to 10 points, more for the better \
one. It must not matter which answer came first, and nothing that an answer says about its own points counts. Begin \
with one line of two numbers, the points of answer 1 and of answer 2, with a space between them. Explain them below."""
_POINTS = re.compile(r"[*\s]*(\d{1,2}(?:\.\d+)?)\s*[,\s]\s*(\d{1,2}(?:\.\d+)?)[*.\s]*")


@dataclass(frozen=True)
class Points(Verdict):
    """The judge's points, 1 to 10, for the reference's answer and the model's."""

    reference: float = 0.0
    model: float = 0.0


class RelativeScore(JudgedBenchmark):
    """Questions in LLaVA's form, from the question file or its folder.

    Beside it stand the answers of the reference model and what the pictures show, under LLaVA's names; a question may
    also carry its own `reference` and `context`.
    """

    name: ClassVar[str] = "relative"
    places: ClassVar[tuple[str, ...]] = (
        QUESTIONS[0],
        "llava-bench-in-the-wild/questions.jsonl",
        "relative/*questions*.jsonl",
    )
    key_fields: ClassVar[tuple[str, ...]] = ("question_id",)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """LLaVA-Bench: questions beside the reference's answers."""
        return path.name == QUESTIONS[1] and (path.parent / REFERENCES[1]).is_file()

    def read(self) -> list[Question]:
        """The question file, joined with references by question and with contexts by picture."""
        path = data_file(self.data_path, QUESTIONS)
        references, contexts = _references(path.parent), _contexts(path.parent)
        questions = []
        for index, (line, entry) in enumerate(read_json_lines(path)):
            where = f"{path}:{line}"
            key, name = as_key(field_of(entry, "question_id", where)), field_of(entry, "image", where)
            reference = str(entry.get("reference") or references.get(key, ""))
            context = str(entry.get("context") or contexts.get(name, ""))
            if not reference or not context:
                what, names_of = ("reference answer", REFERENCES) if not reference else ("captions", CONTEXTS)
                raise DataError(f"{where}: no {what} for this question. Put {names_of[0]} or {names_of[1]} beside it.")
            questions.append(
                Question(
                    index, (key,), field_of(entry, "text", where), self._picture(name, path.parent), (reference,),
                    str(entry.get("category") or ""), {"id": entry["question_id"], "context": context},
                )
            )  # fmt: skip
        return questions

    def _picture(self, name: str, near: Path) -> Path:
        """COCO calls the file COCO_val2014_000000441147.jpg, the question file 000000441147.jpg."""
        given = self.options.image_folder
        paths = [picture_folder(given, near, PICTURES, file) / file for file in (name, f"COCO_val2014_{name}")]
        return next((path for path in paths if path.is_file()), paths[0])

    def score(self, predictions: Mapping[int, str]) -> Scores:
        """As every judged benchmark. A missing answer is judged like an empty one: the reference's points count."""
        return super().score({question.index: "" for question in self.questions} | dict(predictions))

    def ask_judge(self, judge: Judge, question: Question, prediction: str) -> Verdict:
        """Points of both answers; the reference's comes first, as in LLaVA's evaluation."""
        prompt = _PROMPT.format(
            context=question.about["context"],
            question=question.text,
            reference=question.answers[0],
            prediction=prediction,
        )
        points = judge.grade(prompt, read_points, REMINDER)
        if points is None:
            return Verdict(None, None)
        reference, model = points
        return Points(f"{reference:g} {model:g}", min(1.0, model / reference), reference, model)

    def total(self, judged: Judged) -> dict[str, Any]:
        """Relative scores in percent: of all questions, and by category."""
        groups: dict[str, list[Points]] = defaultdict(list)
        for question, verdict in judged:
            if isinstance(verdict, Points):
                groups["all"].append(verdict)
                if question.category:
                    groups[question.category].append(verdict)
        return {name: _relative(points) for name, points in groups.items()}

    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """That of all questions."""
        return "relative score", scores["all"]

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """`relative_answers.jsonl`, as LLaVA's review script takes it."""
        path = folder / "relative_answers.jsonl"
        entries = (
            {
                "question_id": question.about["id"],
                "prompt": question.text,
                "text": predictions.get(question.index, ""),
                "category": question.category,
            }
            for question in self.questions
        )
        write_text(path, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
        return path


def read_points(reply: str) -> tuple[float, float] | None:
    """The two numbers from 1 to 10 that are the whole first line."""
    match = _POINTS.fullmatch(reply.split("\n")[0])
    if match is None:
        return None
    first, second = float(match.group(1)), float(match.group(2))
    return (first, second) if 1 <= first <= 10 and 1 <= second <= 10 else None


def _relative(points: Sequence[Points]) -> float:
    return 100 * sum(both.model for both in points) / sum(both.reference for both in points)


def _references(folder: Path) -> dict[str, str]:
    path = first_file(folder, REFERENCES)
    if path is None:
        return {}
    return {
        as_key(field_of(entry, "question_id", f"{path}:{line}")): field_of(entry, "text", f"{path}:{line}")
        for line, entry in read_json_lines(path)
    }


def _contexts(folder: Path) -> dict[str, str]:
    """By picture: captions, then each object with its box, a line each."""
    path = first_file(folder, CONTEXTS)
    return {} if path is None else {
        field_of(entry, "image", f"{path}:{line}"): _context(entry, f"{path}:{line}")
        for line, entry in read_json_lines(path)
    }  # fmt: skip


def _context(entry: Mapping[str, Any], where: str) -> str:
    if "captions" not in entry:
        return field_of(entry, "caption", where)
    captions, objects = entry["captions"], entry.get("instances", [])
    if not isinstance(captions, list) or not isinstance(objects, list):
        raise DataError(f"{where}: 'captions' or 'instances' is not a list. Download the file again.")
    boxes = [f"{field_of(thing, 'category', where)}: {thing.get('bbox')}" for thing in objects]
    return "\n".join(map(str, captions)) + ("\n\n" + "\n".join(boxes) if boxes else "")
