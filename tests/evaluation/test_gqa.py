"""GQA: accuracy of all, binary and open questions by hand, the layouts in the wild and odd files."""

import json
from pathlib import Path

import pytest

from tests.evaluation.made_files import answered, asked, draw, metrics_of, write, write_lines
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.gqa import GQA
from vlmtool.evaluation.catalog import find_data
from vlmtool.evaluation.questions import SHORT
from vlmtool.utils.errors import DataError

BLIND = Options(needs_pictures=False)
NAME = "testdev_balanced_questions.json"


def question(answer: str | None = "yes", kind: str | None = "verify", image: str = "n1") -> dict:
    entry: dict = {"question": "Is it overcast?", "imageId": image}
    entry |= {} if answer is None else {"answer": answer}
    return entry if kind is None else entry | {"types": {"structural": kind, "semantic": "attr"}}


def annotations(folder: Path, **questions: dict) -> Path:
    return write(folder / NAME, json.dumps({name.removeprefix("q"): entry for name, entry in questions.items()}))


def test_score_by_hand(tmp_path):
    path = annotations(
        tmp_path,
        q1=question(),
        q2=question("left", "choose"),
        q3=question("dog", "query"),
        q4=question("cat", "query"),
    )
    given = write_lines(
        tmp_path / "a.jsonl",
        {"question_id": "1", "prompt": "p", "text": "Yes."},
        {"question_id": "2", "text": "right"},
        {"question_id": 3, "text": "Dog..."},
        {"question_id": "99", "text": "cat"},
    )
    metrics = metrics_of("gqa", path, given, tmp_path / "w")
    assert metrics["scores"] == {"accuracy": 50, "binary": 50, "open": 50}
    assert (metrics["counts"]["predictions_missing"], metrics["counts"]["predictions_unknown"]) == (1, 1)


@pytest.mark.parametrize(
    ("prediction", "hit"),
    [("yes", 1), ("YES.", 1), ("Yes..", 1), ("yes, it is", 0), ("yes .", 0), (" yes", 0), ("", 0), (".yes", 0)],
)
def test_the_very_word(tmp_path, prediction, hit):
    benchmark = GQA(annotations(tmp_path, q1=question()), BLIND)
    assert benchmark.score({0: prediction}).scores["accuracy"] == 100 * hit


def test_questions_without_type_are_told_by_their_answer(tmp_path):
    path = annotations(tmp_path, q1=question("yes", None), q2=question("dog", None), q3=question("dog", None))
    scores = GQA(path, BLIND).score({0: "no", 1: "dog", 2: "dog"})
    assert scores.scores == {"accuracy": pytest.approx(200 / 3), "binary": 0, "open": 100}
    assert scores.counts["questions_without_type"] == 3 and "3 questions without a type" in scores.warnings[0]


@pytest.mark.parametrize(
    ("data", "pictures"),
    [("gqa", "gqa/images"), ("gqa/data", "gqa/data/images"), ("gqa/questions1.2", "gqa/images"), ("GQA", "GQA")],
)
def test_layouts(tmp_path, data, pictures):
    path = annotations(tmp_path / data, q1=question())
    picture = draw(tmp_path / pictures / "n1.jpg")
    assert find_data(GQA, tmp_path) == [path]
    for data_path in (path, tmp_path / data.split("/")[0]):
        benchmark = GQA(data_path)
        assert benchmark.questions[0].picture == picture and asked(benchmark) == ["\nIs it overcast?" + SHORT]


def test_missing_pictures_are_named(tmp_path):
    path = annotations(tmp_path, q1=question(), q2=question(image="n2"))
    draw(tmp_path / "images/n1.jpg")
    with pytest.raises(DataError, match=r"1 of 2 pictures are not there, the first is .*images/n2.jpg"):
        GQA(path)


@pytest.mark.parametrize("truth", ["gqa", "gqa/data", "gqa/data/questions1.2"])
def test_question_file_of_llava(tmp_path, truth):
    annotations(tmp_path / truth, q1=question("dog", "query"), q3=question())
    entries = [{"question_id": n, "image": "n1.jpg", "text": f"Is it {n}?{SHORT}"} for n in ("1", "2")]
    path = write_lines(tmp_path / "gqa/llava_gqa_testdev_balanced.jsonl", *entries)
    picture = draw(tmp_path / "gqa/data/images/n1.jpg")
    benchmark = GQA(path)
    assert asked(benchmark) == [f"\nIs it 1?{SHORT}", f"\nIs it 2?{SHORT}"]
    assert benchmark.questions[0].picture == picture
    scores = benchmark.score({0: "dog", 1: "dog"})
    assert scores.scores == {"accuracy": 100, "binary": 0, "open": 100}
    assert scores.counts["questions_without_answer"] == 1


def test_official_predictions_are_read_and_written(tmp_path):
    path = annotations(tmp_path, q1=question(None), q2=question(None))
    given = write(tmp_path / "merge.json", json.dumps([{"questionId": "2", "prediction": "Dog."}]))
    benchmark = GQA(path, BLIND)
    assert answered(benchmark, given).scores == {}
    metrics_of("gqa", path, given, tmp_path / "w")
    assert json.loads((tmp_path / "w/testdev_balanced_predictions.json").read_text()) == [
        {"questionId": "1", "prediction": ""}, {"questionId": "2", "prediction": "dog"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"1": ', "not JSON .*line 1"),
        ("[]", "not an object of questions by id"),
        ("{}", "it has no questions"),
        ('{"1": 3}', "question 1 is not a JSON object"),
        ('{"1": {"question": "q", "answer": "a"}}', "question 1: no 'imageId'"),
        (json.dumps({"1": question(), "1.0": question()}), "questionId 1 stands there twice"),
        (json.dumps({"1": question() | {"answer": ["a"]}}), "question 1: no 'answer'"),
    ],
)
def test_broken_data_says_where(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        GQA(write(tmp_path / NAME, content), BLIND)


def test_same_id_twice_in_the_file_is_an_error(tmp_path):
    text = f'{{"1": {json.dumps(question())}, "1": {json.dumps(question("no"))}}}'
    with pytest.raises(DataError, match="'1' stands there twice"):
        GQA(write(tmp_path / NAME, text), BLIND)
