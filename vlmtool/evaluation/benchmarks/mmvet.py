"""MM-Vet: open questions about pictures, graded from 0 to 1 by a judge model, by the abilities that they need.

Source: https://arxiv.org/abs/2308.02490. The paper's judge is GPT-4 with a prompt of its own; ours is worded anew, and
every judge grades a little differently: compare only what the same judge graded.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.evaluation.benchmark import Judge, Options
from vlmtool.evaluation.files.json_files import field_of, read_json
from vlmtool.evaluation.files.llava_files import data_file, picture_folder
from vlmtool.evaluation.judging.judged import JUDGE, JudgedBenchmark
from vlmtool.evaluation.questions import Judged, Question, Verdict, as_key, mean
from vlmtool.utils.errors import DataError
from vlmtool.utils.files import write_json

PROXY = "proxy"
AND, OR = "<AND>", "<OR>"
REMINDER = "Write one number from 0.0 to 1.0 and nothing else."
_PROMPT = """\
You grade answers to questions about pictures that you cannot see. Compare the answer with the reference and say how \
much of the reference it gets right, from 0.0 (nothing) to 1.0 (everything) in steps of 0.1. Parts of a reference that \
<AND> joins are all needed, and each is worth an equal share; of those that <OR> joins one is enough. Other words for \
the same thing are right. Write one number and nothing else.

Question: Which two numbers do the dice show?
Reference: 3 <AND> 6
Answer: I see a six and a three.
Grade: 1.0

Question: Which two numbers do the dice show?
Reference: 3 <AND> 6
Answer: The dice show 3 and 5.
Grade: 0.5

Question: Which animal is on the road sign?
Reference: moose <OR> elk
Answer: It warns of elks.
Grade: 1.0

Question: Which animal is on the road sign?
Reference: moose <OR> elk
Answer: A cow.
Grade: 0.0

Question: Why is this drawing funny?
Reference: A dog walks its owner on a lead: the two have changed places. The owner even carries a stick in his mouth.
Answer: A man and a dog are out for a walk, and it is the dog who holds the lead.
Grade: 0.6

"""
_GRADE = re.compile(r"[*\s]*(?:grade\s*[:=]?)?[*\s]*(0?\.\d+|[01](?:\.0*)?)[*.\s]*", re.IGNORECASE)


class MMVet(JudgedBenchmark):
    """MM-Vet, from `mm-vet.json` or its folder; pictures in `images/` beside it.

    Extractors: `judge`, and `proxy`, which is taken where no judge is named: an answer is worth the share of the
    reference's parts whose words stand in it. That is quick and repeatable, but no MM-Vet score.
    """

    name: ClassVar[str] = "mmvet"
    places: ClassVar[tuple[str, ...]] = ("mm-vet.json",)
    key_fields: ClassVar[tuple[str, ...]] = ("question_id",)
    extractors: ClassVar[tuple[str, ...]] = (JUDGE, PROXY)
    needs_judge: ClassVar[bool] = False

    def __init__(self, data_path: Path, options: Options | None = None) -> None:
        options = options or Options()
        if options.judge is None and options.extractor is None:
            options = replace(options, extractor=PROXY)
        super().__init__(data_path, options)
        if self.extractor == PROXY:
            self.warnings.append(
                "the extractor is 'proxy', which looks for the reference's words: this is no MM-Vet score. "
                "Name a judge for one: --judge-url and --judge-model"
            )

    def read(self) -> list[Question]:
        """The questions of `mm-vet.json`."""
        path = data_file(self.data_path, ("mm-vet.json", "mm-vet/mm-vet.json"))
        content = read_json(path)
        if not isinstance(content, dict) or not content:
            raise DataError(f"{path}: not an object of questions by id. Download mm-vet.zip again.")
        first = field_of(next(iter(content.values())), "imagename", str(path))
        folder = picture_folder(self.options.image_folder, path.parent, ("images",), first)
        return [
            self._question(index, key, entry, folder, f"{path}: {key}")
            for index, (key, entry) in enumerate(content.items())
        ]

    def _question(self, index: int, key: str, entry: Any, folder: Path, where: str) -> Question:
        text, name = field_of(entry, "question", where), field_of(entry, "imagename", where)
        abilities = entry.get("capability")
        if not isinstance(abilities, list) or not all(isinstance(ability, str) for ability in abilities):
            raise DataError(f"{where}: 'capability' is not a list of names. Download mm-vet.zip again.")
        answers = (field_of(entry, "answer", where),) if entry.get("answer") not in (None, "") else ()
        abilities = sorted(set(abilities))
        return Question(index, (key,), text, folder / name, answers, "+".join(abilities), {"abilities": abilities})

    def key_of(self, entry: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Its question id; LLaVA's files have 7 for v1_7."""
        key = as_key(entry.get("question_id", ""))
        return (f"v1_{key}",) if key.isdecimal() else super().key_of(entry)

    def judge(self, question: Question, prediction: str) -> Verdict:
        """The judge's grade, or the proxy's."""
        if self.extractor == JUDGE or not question.answers:
            return super().judge(question, prediction)
        credit = proxy_credit(question.answers[0], prediction)
        return Verdict(f"{credit:.2f}", credit)

    def ask_judge(self, judge: Judge, question: Question, prediction: str) -> Verdict:
        """A grade from 0 to 1."""
        reference = question.answers[0].replace(AND, f" {AND} ").replace(OR, f" {OR} ")
        parts = {"Question": question.text, "Reference": reference, "Answer": prediction}
        # Each on one line: an answer cannot pass for the grade that is asked for.
        asked = "".join(f"{name}: {' '.join(text.split())}\n" for name, text in parts.items())
        grade = judge.grade(f"{_PROMPT}{asked}Grade:", read_grade, REMINDER)
        return Verdict(None, None) if grade is None else Verdict(f"{grade:g}", grade)

    def total(self, judged: Judged) -> dict[str, Any]:
        """Mean grade in percent: of all, and of those that need an ability."""
        graded = [(question.about["abilities"], verdict.credit) for question, verdict in judged]
        credits = [(abilities, credit) for abilities, credit in graded if credit is not None]
        if not credits:
            return {}
        names = sorted({name for abilities, _ in credits for name in abilities})
        scores = {"total": 100 * mean(credit for _, credit in credits)}
        scores |= {name: 100 * mean(credit for abilities, credit in credits if name in abilities) for name in names}
        return scores if self.extractor == JUDGE else {PROXY: scores}

    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """The total."""
        if self.extractor == JUDGE:
            return "total", scores["total"]
        return "proxy total, no MM-Vet score", scores[PROXY]["total"]

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """`mmvet_answers.json`, as the official evaluator takes it: answers by question id."""
        path = folder / "mmvet_answers.json"
        write_json(path, {question.key[0]: predictions.get(question.index, "") for question in self.questions})
        return path


def read_grade(reply: str) -> float | None:
    """The number from 0 to 1 that is the whole first line."""
    match = _GRADE.fullmatch(reply.split("\n")[0])
    return float(match.group(1)) if match else None


def proxy_credit(reference: str, answer: str) -> float:
    """Share of the reference's <AND> parts of which one <OR> alternative stands in the answer as whole words."""
    parts = [[_words(text) for text in part.split(OR)] for part in reference.split(AND)]
    said = _words(answer)
    return mean(any(bool(text) and _is_in(text, said) for text in part) for part in parts)


def _words(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .,;:!?\"'")


def _is_in(text: str, said: str) -> bool:
    """As whole words: 5 is neither in 15, 1.5 and 5.2, nor in -5."""
    return re.search(rf"(?<![\w-])(?<!\d\.){re.escape(text)}(?!\w|\.\d)", said) is not None
