"""POPE: is an object in the picture, or only likely to be? Yes or no, in three categories of objects asked for.

Source: https://arxiv.org/abs/2305.10355; the rule is LLaVA's llava/eval/eval_pope.py, which the authors' own follows.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.evaluation.files.json_files import field_of, read_json_lines
from vlmtool.evaluation.files.llava_files import (
    AskedQuestion,
    first_file,
    is_question_file,
    picture_folder,
    read_question_file,
)
from vlmtool.evaluation.question_benchmark import QuestionBenchmark
from vlmtool.evaluation.questions import SHORT, Judged, Question, Verdict, as_key, mean
from vlmtool.utils.errors import DataError
from vlmtool.utils.files import write_text

MEAN = "MEAN"
_LABEL_FILES = ("coco_pope_*.json", "coco/coco_pope_*.json", "output/coco/coco_pope_*.json", "*_pope_*.json")
_QUESTION_FILE = "llava_pope_test.jsonl"


class Pope(QuestionBenchmark):
    """POPE.

    Args:
        data_path: a label file (`coco_pope_random.json`), a folder of them, or LLaVA's question file beside them.
    """

    name = "pope"
    places = ("pope", "POPE")
    key_fields: ClassVar[tuple[str, ...]] = ("category", "question_id")
    scale = 100

    def read(self) -> list[Question]:
        """The questions of every category, or those of a question file."""
        self._llava_keys: dict[str, tuple[str, str]] = {}
        if is_question_file(self.data_path):
            return self._with_labels(read_question_file(self.data_path))
        files = _label_files(self.data_path)
        if not files:
            raise DataError(f"{self.data_path}: no coco_pope_*.json. Give the folder that holds POPE's label files.")
        questions: list[Question] = []
        for category, path in files.items():
            questions += self._of_label_file(path, category, len(questions))
        self._read_llava_keys(questions)
        return questions

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A folder with label files, whatever it is called."""
        return any(path.glob(_LABEL_FILES[0]))

    def key_of(self, entry: Mapping[str, Any]) -> tuple[str, ...] | None:
        """By category and question_id; an answer without category by the question file's id, or the only category."""
        key = super().key_of(entry)
        if key is not None or "question_id" not in entry:
            return key
        question_id = as_key(entry["question_id"])
        if self._llava_keys:
            return self._llava_keys.get(question_id, ("", question_id))
        categories = {question.category for question in self.questions}
        if len(categories) > 1:
            raise DataError(f"question {question_id} has no category. Add it, or put {_QUESTION_FILE} beside the data.")
        return (*categories, question_id)

    def judge(self, question: Question, prediction: str) -> Verdict:
        """No where the first sentence has the word no or not, else yes."""
        words = prediction.split(".")[0].replace(",", "").split(" ")
        said = "no" if any(word in words for word in ("No", "not", "no")) else "yes"
        return Verdict(said, float(said in question.answers))

    def total(self, judged: Judged) -> dict[str, Any]:
        """Five fractions per category, and their means."""
        groups: dict[str, list[tuple[Question, Verdict]]] = defaultdict(list)
        for question, verdict in judged:
            groups[question.category].append((question, verdict))
        scores = {category: _measures(group) for category, group in groups.items()}
        names = next(iter(scores.values()))
        return {**scores, MEAN: {name: mean(values[name] for values in scores.values()) for name in names}}

    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """The mean of the categories' F1, in percent."""
        return "F1, mean of the categories", 100 * scores[MEAN]["f1"]

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """`pope_answers/`: a file per category, JSON Lines of question and answer, for the authors' evaluate.py."""
        lines: dict[str, list[str]] = defaultdict(list)
        for question in self.questions:
            answer = {"question": question.about["question"], "answer": predictions.get(question.index, "")}
            lines[question.category].append(json.dumps(answer, ensure_ascii=False) + "\n")
        target = folder / "pope_answers"
        for category, answers in lines.items():
            write_text(target / f"{Path(category).name or 'pope'}.json", "".join(answers))
        return target

    def _of_label_file(self, path: Path, category: str, start: int) -> list[Question]:
        entries = read_json_lines(path)
        pictures: Path | None = None
        questions = []
        for number, (line, entry) in enumerate(entries, start=start):
            image, text = (field_of(entry, name, f"{path}:{line}") for name in ("image", "text"))
            pictures = pictures or self._pictures(path.parent, image)
            key = (category, as_key(field_of(entry, "question_id", f"{path}:{line}")))
            label = _label(entry, f"{path}:{line}")
            questions.append(Question(number, key, text + SHORT, pictures / image, label, category, {"question": text}))
        return questions

    def _with_labels(self, asked: Sequence[AskedQuestion]) -> list[Question]:
        """The questions of a question file. It has no labels: the n-th of a category has the n-th label of its file."""
        files = _label_files(self.data_path.parent)
        labels = {
            category: [_label(entry, f"{path}:{line}") for line, entry in read_json_lines(path)]
            for category, path in files.items()
        }
        pictures = self._pictures(self.data_path.parent, asked[0].image) if asked else self.data_path.parent
        seen: dict[str, int] = defaultdict(int)
        questions = []
        for index, one in enumerate(asked):
            of_category, place = labels.get(one.category, []), seen[one.category]
            seen[one.category] += 1
            key = (one.category, as_key(one.question_id))
            self._llava_keys[key[1]] = key
            questions.append(
                Question(
                    index, key, one.text, pictures / one.image, of_category[place] if place < len(of_category) else (),
                    one.category, {"question": one.text.removesuffix(SHORT)},
                )
            )  # fmt: skip
        for category, of_category in labels.items():
            if seen[category] not in (0, len(of_category)):
                raise DataError(
                    f"{self.data_path}: {seen[category]} questions of {category}, but {files[category]} has "
                    f"{len(of_category)} labels.\nGive the whole question file, or the folder of label files."
                )
        return questions

    def _read_llava_keys(self, questions: Sequence[Question]) -> None:
        """LLaVA's own ids, where its question file lies near: its n-th of a category is the n-th of the label file."""
        folder = self.data_path if self.data_path.is_dir() else self.data_path.parent
        path = first_file(folder, (_QUESTION_FILE, f"../{_QUESTION_FILE}"))
        of_category: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            of_category[question.category].append(question)
        seen: dict[str, int] = defaultdict(int)
        for one in read_question_file(path) if path else ():
            place = seen[one.category]
            seen[one.category] += 1
            if place < len(of_category[one.category]):
                category, question_id = of_category[one.category][place].key
                self._llava_keys[as_key(one.question_id)] = (category, question_id)

    def _pictures(self, near: Path, image: str) -> Path:
        return picture_folder(self.options.image_folder, near, ("val2014", "images"), image)


def _label_files(data_path: Path) -> dict[str, Path]:
    """By category. `coco_pope_random.json` is the category random."""
    paths = [data_path]
    if data_path.is_dir():
        found = (sorted(data_path.glob(pattern)) for pattern in _LABEL_FILES)
        paths = next((some for some in found if some), [])
    files: dict[str, Path] = {}
    for path in paths:
        category = path.stem.rpartition("pope_")[2]
        if category in files:
            raise DataError(
                f"{path} and {files[category].name} are both of category {category}. Keep one of them in the folder."
            )
        files[category] = path
    return files


def _label(entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if "label" not in entry:
        return ()
    label = str(entry["label"]).strip().lower()
    if label not in ("yes", "no"):
        raise DataError(f"{where}: label '{str(entry['label'])[:40]}' is neither yes nor no. Correct it.")
    return (label,)


def _measures(judged: Judged) -> dict[str, float]:
    """Yes is the positive class. An answer that is missing is wrong: a false yes or a false no, whichever it can be."""
    is_yes = [("yes" in question.answers, verdict) for question, verdict in judged]
    hits = sum(bool(verdict.credit) for yes, verdict in is_yes if yes)
    positives = sum(yes for yes, _ in is_yes)
    false_yes = sum(not verdict.credit for yes, verdict in is_yes if not yes)
    precision = _ratio(hits, hits + false_yes)
    recall = _ratio(hits, positives)
    return {
        "acc": mean(verdict.credit or 0.0 for _, verdict in judged),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        "yes_ratio": mean(float(verdict.extracted == "yes") for _, verdict in judged),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
