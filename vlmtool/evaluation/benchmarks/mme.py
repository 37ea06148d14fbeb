"""MME: 14 sub-tasks of perception and cognition, two yes-or-no questions about each picture.

Source: https://arxiv.org/abs/2306.13394; the rule is eval_tool/calculation.py of
https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation, the prompt LLaVA's llava_mme.jsonl.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from vlmtool.evaluation.benchmark import name_some
from vlmtool.evaluation.files.llava_files import as_joined, is_question_file, question_alone, read_question_file
from vlmtool.evaluation.question_benchmark import QuestionBenchmark
from vlmtool.evaluation.questions import SHORT, Judged, Question, Verdict, as_key, mean
from vlmtool.evaluation.reading.extract import YES_NO_RULE
from vlmtool.evaluation.reading.vqa_text import strip_punctuation
from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import DataError
from vlmtool.utils.files import write_text

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUB_TASKS = (*PERCEPTION, *COGNITION)
_HOW_TO_ANSWER = "Please answer yes or no."
_FOLDERS = ("", "MME_Benchmark_release_version", "MME_Benchmark_release_version/MME_Benchmark", "images")
_PICTURES = (".jpg", ".png", ".jpeg", ".bmp", ".webp")


class MME(QuestionBenchmark):
    """MME.

    Args:
        data_path: the folder of the sub-tasks or the one above, or LLaVA's question file beside it.
    """

    name = "mme"
    places = ("MME", "mme", "MME_Benchmark_release_version")
    key_fields: ClassVar[tuple[str, ...]] = ("category", "image", "question")
    extractors = ("official", "vlmeval")
    rules_in_words: ClassVar[Mapping[str, str]] = {
        "official": "yes or no in the first four characters",
        "vlmeval": YES_NO_RULE,
    }

    def read(self) -> list[Question]:
        """Every line of every text file, sub-tasks in the order of the paper; or the lines of a question file."""
        if is_question_file(self.data_path):
            return self._of_question_file()
        root = _root(self.data_path)
        if root is None:
            raise DataError(f"{self.data_path}: no sub-task of MME (existence/, OCR/ …) is in it. Give their folder.")
        questions: list[Question] = []
        for task in SUB_TASKS:
            for path in _texts(root / task):
                picture = self._picture(root, task, path.stem)
                for text, answer in _read_pairs(path):
                    key = (task, path.stem, _joined(text))
                    asked = text.replace(_HOW_TO_ANSWER, "").rstrip() + SHORT
                    about = {"question": text, "file": picture.name}
                    questions.append(Question(len(questions), key, asked, picture, (answer,), task, about))
        self._check_completeness(questions)
        return questions

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A folder with the first and the last sub-task."""
        return all((path / task).is_dir() for task in (SUB_TASKS[0], SUB_TASKS[-1]))

    def key_of(self, entry: Mapping[str, Any]) -> tuple[str, ...] | None:
        """By picture and question; LLaVA names them question_id and prompt, VLMEvalKit image_path and question."""
        names = ("image_path", "question_id", "image")
        image = next((entry[name] for name in names if isinstance(entry.get(name), str)), None)
        question = entry.get("question", entry.get("prompt"))
        if image is None or not isinstance(question, str):
            return None
        path = PurePosixPath(image)
        known = [part for part in path.parts if part in SUB_TASKS]
        return (as_key(entry.get("category") or (known[-1] if known else "")), path.stem, _joined(question))

    def judge(self, question: Question, prediction: str) -> Verdict:
        """Yes or no by the rule chosen; anything else is wrong."""
        said = official(prediction) if self.extractor == "official" else vlmeval(prediction)
        return Verdict(said, float(said in question.answers))

    def total(self, judged: Judged) -> dict[str, Any]:
        """A sub-task: percent of right questions plus percent of pictures with every question right; then the sums."""
        pictures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for question, verdict in judged:
            pictures[question.category][question.key[1]].append(verdict.credit or 0.0)
        scores = {
            task: 100 * mean(credit for credits in pictures[task].values() for credit in credits)
            + 100 * mean(min(credits) for credits in pictures[task].values())
            for task in SUB_TASKS
            if task in pictures
        }
        sums = {"perception": PERCEPTION, "cognition": COGNITION}
        return scores | {name: sum(scores.get(task, 0.0) for task in tasks) for name, tasks in sums.items()}

    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """The sum of the perception tasks, 2000 at most."""
        return "perception", scores["perception"]

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """`mme_results/`: a text file per sub-task, for calculation.py: picture, question, answer and what was said."""
        lines: dict[str, list[str]] = defaultdict(list)
        for question in self.questions:
            said = " ".join(predictions.get(question.index, "").split())  # a tab or line break would add a column
            answer = "".join(question.answers).capitalize()
            row = (question.about["file"], question.about["question"], answer, said)
            lines[question.category].append("\t".join(row) + "\n")
        target = folder / "mme_results"
        for task, rows in lines.items():
            write_text(target / f"{task}.txt", "".join(rows))
        return target

    def _of_question_file(self) -> list[Question]:
        """Its questions, with the answers of the text files near it."""
        near = self.data_path.parent
        root = _root(near)
        answers = {
            (task, path.stem, _joined(text)): answer
            for task in (SUB_TASKS if root else ())
            for path in _texts((root or near) / task)
            for text, answer in _read_pairs(path)
        }
        questions = []
        for index, one in enumerate(read_question_file(self.data_path)):
            path = PurePosixPath(one.image)
            task = one.category or path.parts[0]
            if task not in SUB_TASKS:
                raise DataError(
                    f"{self.data_path}: question {index + 1} is of sub-task '{task}', which MME does not have."
                )
            key = (task, path.stem, _joined(question_alone(one.text)))
            folder = self.options.image_folder or root or near
            about = {"question": f"{question_alone(one.text)} {_HOW_TO_ANSWER}", "file": path.name}
            answer = (answers[key],) if key in answers else ()
            questions.append(Question(index, key, one.text, folder / path, answer, task, about))
        self._check_completeness(questions)
        return questions

    def _picture(self, root: Path, task: str, stem: str) -> Path:
        roots = [folder / task for folder in (self.options.image_folder, root) if folder is not None]
        folders = [folder / name for folder in roots for name in ("images", "")]
        found = (folder / (stem + ending) for folder in folders for ending in _PICTURES)
        return next((path for path in found if path.is_file()), roots[0] / f"{stem}.jpg")

    def _check_completeness(self, questions: Sequence[Question]) -> None:
        """Sums over fewer tasks, and pictures with one question, give other numbers than those published."""
        per_picture: dict[tuple[str, str], int] = defaultdict(int)
        for question in questions:
            per_picture[question.key[0], question.key[1]] += 1
        odd = ["/".join(picture) for picture, number in per_picture.items() if number != 2]
        present = {question.category for question in questions}
        missing = [task for task in SUB_TASKS if task not in present]
        self.counts |= {"pictures": len(per_picture), "pictures_without_two_questions": len(odd)}
        self.counts |= {"sub_tasks_missing": len(missing)}
        if odd:
            self.warnings.append(f"{counted(len(odd), 'picture')} without two questions: {name_some(odd)}")
        if missing:
            self.warnings.append(f"{len(missing)} of 14 sub-tasks are missing in the sums: {name_some(missing)}")


def official(prediction: str) -> str | None:
    """Yes or no in the first four characters ("eyes" reads as yes, "Nothing" as no)."""
    start = prediction.lower()[:4]
    return next((answer for answer in ("yes", "no") if answer in start), None)


def vlmeval(prediction: str) -> str | None:
    """Yes or no among the words, but not both. Source: VLMEvalKit, vlmeval/dataset/utils/yorn.py."""
    words = strip_punctuation(prediction.lower()).split()
    said = [answer for answer in ("yes", "no") if answer in words]
    return said[0] if len(said) == 1 else None


def _root(data_path: Path) -> Path | None:
    """The folder of the sub-tasks."""
    places = (data_path / name for name in _FOLDERS)
    return next((place for place in places if any((place / task).is_dir() for task in SUB_TASKS)), None)


def _texts(task: Path) -> list[Path]:
    """The text files of a sub-task, in a folder of their own or beside the pictures."""
    return sorted((task / "questions_answers_YN").glob("*.txt")) or sorted(task.glob("*.txt"))


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    """Question and answer of each line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}). Download the file again.") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        question, *answers = line.strip().split("\t")
        if len(answers) != 1 or answers[0].strip().lower() not in ("yes", "no"):
            raise DataError(f"{path}:{number}: not a question, a tab and Yes or No. Correct the line.")
        pairs.append((question, answers[0].strip().lower()))
    return pairs


def _joined(question: str) -> str:
    return as_joined(question_alone(question).replace(_HOW_TO_ANSWER, ""))
