"""VizWiz: score and answerability worked out by hand, the test split, the layouts in the wild and odd files."""

import json
from pathlib import Path

import pytest

from tests.evaluation.made_files import answered, asked, draw, metrics_of, write, write_lines
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.vizwiz import VizWiz
from vlmtool.evaluation.catalog import find_data
from vlmtool.utils.errors import DataError

BLIND = Options(needs_pictures=False)
HOW = (
    "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    "\nAnswer the question using a single word or phrase."
)


def question(number: int, answer: str | None = "cup", split: str = "val", text: str = "What is this?") -> dict:
    entry = {"image": f"VizWiz_{split}_{number:08}.jpg", "question": text}
    if answer is None:
        return entry
    said = [{"answer": answer, "answer_confidence": "yes"}] * 10
    return entry | {"answers": said, "answerable": int(answer != "unanswerable")}


def annotations(path: Path, *questions: dict) -> Path:
    return write(path, json.dumps(questions))


def test_score_and_answerability_by_hand(tmp_path):
    unanswerable = question(2, "unanswerable"), question(3, "unanswerable")
    path = annotations(tmp_path / "val.json", question(0), question(1), *unanswerable, question(4))
    given = write_lines(
        tmp_path / "p.jsonl",
        *({"image": f"VizWiz_val_{number:08}.jpg", "prediction": text}
          for number, text in enumerate(["A cup.", "Unanswerable", "unanswerable", "cup"])),
    )  # fmt: skip
    metrics = metrics_of("vizwiz", path, given, tmp_path / "w")
    assert metrics["scores"] == {"accuracy": 40}  # 2 of 5; one was not answered
    # said to be answerable: 0 (is) and 3 (is not); three of them are
    assert metrics["answerability"] == {
        "precision": 50, "recall": pytest.approx(100 / 3), "f1": pytest.approx(40),
    }  # fmt: skip


def test_data_without_answerable_has_no_answerability(tmp_path):
    entry = {name: value for name, value in question(0).items() if name != "answerable"}
    scores = VizWiz(annotations(tmp_path / "val.json", entry), BLIND).score({0: "cup"})
    assert scores.scores == {"accuracy": 100} and scores.extra == {}


def test_prompt_asks_for_unanswerable(tmp_path):
    path = annotations(tmp_path / "val.json", question(0, text="what is This?"))
    assert asked(VizWiz(path, BLIND)) == ["\nWhat is this?" + HOW]  # one capital, as LLaVA's file has it


@pytest.mark.parametrize(
    ("data", "picture"),
    [
        ("val.json", "val/VizWiz_val_00000000.jpg"),
        ("Annotations/val.json", "val/VizWiz_val_00000000.jpg"),
        ("val.json", "images/VizWiz_val_00000000.jpg"),
        ("val.json", "VizWiz_val_00000000.jpg"),
    ],
)
def test_layouts(tmp_path, data, picture):
    root = tmp_path / "vizwiz"
    path = annotations(root / data, question(0))
    drawn = draw(root / picture)
    assert VizWiz(path).questions[0].picture.resolve() == drawn
    assert find_data(VizWiz, tmp_path) == [path] and len(VizWiz(root).questions) == 1


def test_missing_pictures_are_named(tmp_path):
    with pytest.raises(DataError, match=r"the first is .*val/VizWiz_val_00000000.jpg"):
        VizWiz(annotations(tmp_path / "val.json", question(0)))


def test_test_split_writes_the_submission(tmp_path):
    path = annotations(tmp_path / "test.json", question(0, None, "test"), question(1, None, "test", "And this?"))
    given = write_lines(
        tmp_path / "a.jsonl",
        {"question_id": 0, "prompt": "What is this?" + HOW, "text": "The cup."},
        {"question_id": 7, "prompt": "What is this?" + HOW, "text": "cup"},
    )
    metrics = metrics_of("vizwiz", path, given, tmp_path / "w")
    assert metrics["scores"] == {} and "answerability" not in metrics
    assert (metrics["counts"]["predictions_unknown"], metrics["counts"]["questions_without_answer"]) == (1, 2)
    assert json.loads((tmp_path / "w/vizwiz_submission.json").read_text()) == [
        {"image": "VizWiz_test_00000000.jpg", "answer": "cup"},
        {"image": "VizWiz_test_00000001.jpg", "answer": ""},
    ]


def test_number_of_another_question_is_an_error(tmp_path):
    path = annotations(tmp_path / "test.json", question(0, None, "test"))
    given = write_lines(tmp_path / "a.jsonl", {"question_id": 0, "prompt": "Is it red?" + HOW, "text": "no"})
    with pytest.raises(DataError, match="a.jsonl:1: question_id 0 is another question here"):
        answered(VizWiz(path, BLIND), given)


def test_question_file_of_llava(tmp_path):
    image = "VizWiz_test_00000005.jpg"
    entry = {"question_id": 3, "image": image, "text": "What is this?" + HOW, "category": "default"}
    path = write_lines(tmp_path / "llava_test.jsonl", entry)
    draw(tmp_path / "test" / image)
    benchmark = VizWiz(path)
    assert asked(benchmark) == ["\nWhat is this?" + HOW]
    assert benchmark.index_of({"question_id": 3, "text": "cup"}) == 0
    assert benchmark.index_of({"question_id": 0, "text": "cup"}) is None
    assert benchmark.index_of({"image": image}) == benchmark.index_of({"question_id": image}) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{]", "not JSON .*line 1"),
        ("{}", "not a list of questions"),
        (json.dumps([question(0), question(0)]), "image VizWiz_val_00000000.jpg stands there twice"),
        (json.dumps([{"question": "q"}]), "question 1: no 'image'"),
        (json.dumps([question(0) | {"answerable": "perhaps"}]), "question 1: 'answerable' is neither 0 nor 1"),
        (json.dumps([question(0) | {"answers": [{"text": "cup"}] * 10}]), "question 1: 'answers' is not a list"),
    ],
)
def test_broken_data_says_where(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        VizWiz(write(tmp_path / "val.json", content), BLIND)
