"""ScienceQA: the prompt as LLaVA's question file has it, the letter as LLaVA's script reads it, two accuracies."""

import json
import random
import re
from pathlib import Path

import pytest
from PIL import Image

from vlmtool.data.conversation import Image as Picture
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.scienceqa import ScienceQA, read_letter
from vlmtool.evaluation.catalog import find_data
from vlmtool.evaluation.files.predictions import read_predictions
from vlmtool.utils.errors import DataError

SUFFIX = "\nAnswer with the option's letter from the given choices directly."
PROBLEMS = {
    "1": {"question": "In train only", "choices": ["a", "b"], "answer": 0, "hint": "", "image": None},
    "4": {"question": "Which is warm?", "choices": ["ice", "fire"], "answer": 1, "hint": "", "image": None},
    "5": {
        "question": "What is shown?", "choices": ["a cat", "a dog", "a cow"], "answer": 2,
        "hint": "On a farm.\nAt noon.", "image": "image.png", "subject": "natural science",
    },
    "9": {"question": "Which one?", "choices": ["x", "y"], "answer": 0, "hint": "", "image": "image.png"},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "root" / "scienceqa"
    home.mkdir(parents=True)
    (home / "problems.json").write_text(json.dumps(PROBLEMS))
    (home / "pid_splits.json").write_text(json.dumps({"train": ["1"], "test": ["4", "5", "9"]}))
    for key in ("5", "9"):
        (home / "images" / "test" / key).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(home / "images" / "test" / key / "image.png")
    return home


def texts(benchmark: ScienceQA) -> list[str]:
    return [question.text for question in benchmark.questions]


def test_prompts(folder):
    benchmark = ScienceQA(folder)
    samples = benchmark.samples()
    assert benchmark.prompt(samples[0])[0].content == (f"Which is warm?\nA. ice\nB. fire{SUFFIX}",)
    picture, text = benchmark.prompt(samples[1])[0].content
    assert picture == Picture(str(folder / "images" / "test" / "5" / "image.png"))
    assert text == f"\nContext: On a farm.\nAt noon.\nWhat is shown?\nA. a cat\nB. a dog\nC. a cow{SUFFIX}"
    assert [path.name for path in find_data(ScienceQA, folder.parent)] == ["problems.json"]


def test_llavas_question_file_gives_the_same_prompts(folder):
    def entry(key: str, text: str) -> dict:
        turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "B"}]
        return {"id": key, "conversations": turns} | ({"image": f"{key}/image.png"} if "<image>" in text else {})

    file = folder / "llava_test_CQM-A.json"
    file.write_text(json.dumps([
        entry("4", "Which is warm?\nA. ice\nB. fire"),
        entry("5", "<image>\nContext: On a farm.\nAt noon.\nWhat is shown?\nA. a cat\nB. a dog\nC. a cow"),
        entry("9", "<image>\nWhich one?\nA. x\nB. y"),
    ]))  # fmt: skip
    assert texts(ScienceQA(file)) == texts(ScienceQA(folder)) == texts(ScienceQA(folder / "pid_splits.json"))
    (folder / "problems.json").unlink()
    with pytest.raises(DataError, match="problems.json"):
        ScienceQA(file)


@pytest.mark.parametrize("given", ["images", "images/test"])
def test_pictures_are_found_below_the_given_folder(folder, given):
    (folder / "images").rename(folder.parent / "images")
    with pytest.raises(DataError, match="2 of 2 pictures"):
        ScienceQA(folder / "problems.json", Options(image_folder=folder))
    assert ScienceQA(folder, Options(image_folder=folder.parent / given)).questions[1].picture is not None


def official(prediction: str) -> str | None:
    """LLaVA's rule, said plainly: eval_science_qa.py."""
    said = prediction.replace("\n", ". ")
    if said.strip() in ("A", "B", "C", "D", "E"):
        return said.strip()
    if len(said) >= 3 and said[0] in "ABCDE" and said[1:3] == ". ":
        return said[0]
    if "The answer is " in said:
        for pattern in ("The answer is ([A-E])\\.", "The answer is ([A-E])"):
            found = re.search(pattern, said)
            if found:
                return found.group(1)
    return None


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("B", "B"), (" B\n", None), ("B\n", "B"), ("B. fire", "B"), ("B.", None), ("B\nbecause", "B"),
        ("So hot. The answer is B.", "B"), ("The answer is Burning. The answer is C.", "C"), ("The answer is B", "B"),
        ("the answer is B.", None), ("b", None), ("fire", None), ("", None), ("F", None), ("A or B", None),
    ],
)  # fmt: skip
def test_the_letter_is_read_as_llava_reads_it(prediction, letter):
    assert read_letter(prediction) == official(prediction) == letter


def test_any_text_is_read_as_llava_reads_it():
    chance = random.Random(0)
    pieces = ["A", "B", "E", "F", ".", " ", "\n", "The answer is ", "the answer is ", "x", ". "]
    for _ in range(20_000):
        text = "".join(chance.choices(pieces, k=chance.randint(0, 6)))
        assert read_letter(text) == official(text), repr(text)


def test_scores(folder, tmp_path):
    benchmark = ScienceQA(folder)
    scores = benchmark.score({0: "B", 1: "The answer is C.", 2: "C"})  # the third names a letter that is no option
    assert scores.scores == {"total": pytest.approx(200 / 3), "image": 50.0}
    assert scores.headline == ("image", 50.0)
    assert [row["extracted"] for row in scores.rows] == ["B", "C", None]
    assert scores.counts["answers_unreadable"] == 1
    assert benchmark.score({0: "B"}).scores == {"total": pytest.approx(100 / 3), "image": 0.0}
    result = json.loads(benchmark.write_submission({0: "B", 1: "C. cow"}, tmp_path).read_text())
    assert result["results"] == {"4": 1, "5": 2, "9": -1} and result["outputs"]["5"] == "C. cow"


def test_llavas_answer_file_is_read(folder, tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"question_id": "5", "prompt": "p", "text": "C"}\n{"question_id": 4, "text": "A"}\n')
    assert read_predictions(file, ScienceQA(folder)) == {1: "C", 0: "A"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"5": {**PROBLEMS["5"], "answer": 3}}, "problem 5: 'answer' is 3"),
        ({"5": {**PROBLEMS["5"], "choices": "abc"}}, "problem 5: 'choices'"),
        ({"5": {**PROBLEMS["5"], "question": None}}, "problem 5: no 'question'"),
        ({"5": None}, "problem 5: no 'question'"),
    ],
)
def test_broken_problems_are_named(folder, change, said):
    (folder / "problems.json").write_text(json.dumps(PROBLEMS | change))
    with pytest.raises(DataError, match=said):
        ScienceQA(folder)


def test_a_split_without_its_problems_is_an_error(folder):
    (folder / "pid_splits.json").write_text(json.dumps({"test": ["4", "77"]}))
    with pytest.raises(DataError, match="lacks 1 problem of the split, the first is 77"):
        ScienceQA(folder)
    (folder / "pid_splits.json").write_text(json.dumps({"test": ["4", "4"]}))
    with pytest.raises(DataError, match="twice"):
        ScienceQA(folder)
