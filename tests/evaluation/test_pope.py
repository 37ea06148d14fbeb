"""POPE: the scores that the official rule gave, the layouts in the wild, and every odd file that one meets."""

import json
from pathlib import Path

import pytest

from tests.evaluation.made_files import answered, asked, assert_same_scores, draw, metrics_of, write
from tests.evaluation.made_files import write_lines as lines
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.pope import Pope
from vlmtool.evaluation.catalog import find_data
from vlmtool.evaluation.questions import SHORT
from vlmtool.utils.errors import DataError

DATA = Path(__file__).parents[1] / "data" / "pope"
BLIND = Options(needs_pictures=False)


def question(number: int, label: str | None = "yes", image: str = "a.jpg") -> dict:
    entry = {"question_id": number, "image": image, "text": f"Is there a cat {number} in the image?"}
    return entry if label is None else entry | {"label": label}


def two_categories(folder: Path) -> Path:
    lines(folder / "coco_pope_random.json", question(1, "yes"), question(2, "no"))
    lines(folder / "coco_pope_popular.json", question(1, "no"), question(2, "no"))
    return folder


def test_scores_agree_with_the_official_rule(tmp_path):
    metrics = metrics_of("pope", DATA, DATA / "pope_predictions.jsonl", tmp_path)
    assert_same_scores(metrics["scores"], json.loads((DATA / "pope_expected.json").read_text())["scores"])
    assert metrics["counts"]["predictions_missing"] == metrics["counts"]["predictions_unknown"] == 0


@pytest.mark.parametrize(
    ("prediction", "said"),
    [
        ("Yes", "yes"), ("No", "no"), ("no, it is", "no"), ("There is not. Yes", "no"), ("Yes. No", "yes"),
        ("NO", "yes"), ("None", "yes"), ("No!", "yes"), ("", "yes"), (" no", "no"), ("Sure\nno", "yes"),
    ],
)  # fmt: skip
def test_rule(tmp_path, prediction, said):
    benchmark = Pope(lines(tmp_path / "coco_pope_random.json", question(1)), BLIND)
    assert benchmark.judge(benchmark.questions[0], prediction).extracted == said


def test_one_file_by_hand(tmp_path):
    labels = ["yes", "yes", "yes", "no", "no"]
    path = lines(tmp_path / "coco_pope_random.json", *(question(i, label) for i, label in enumerate(labels)))
    scores = Pope(path, BLIND).score(dict(enumerate(["yes", "yes", "no", "yes", "no"])))
    # true yes 2, false no 1, false yes 1, true no 1
    expected = {"acc": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 3 / 5}
    assert_same_scores(scores.scores, {"random": expected, "MEAN": expected})
    assert scores.headline == ("F1, mean of the categories", pytest.approx(200 / 3))


def test_missing_answer_is_wrong_whatever_the_label(tmp_path):
    path = lines(
        tmp_path / "coco_pope_random.json", *(question(i, label) for i, label in enumerate(["yes", "no", "yes"]))
    )
    values = Pope(path, BLIND).score({0: "yes"}).scores["random"]
    assert values["acc"] == pytest.approx(1 / 3)
    assert (values["precision"], values["recall"], values["yes_ratio"]) == pytest.approx((1 / 2, 1 / 2, 1 / 3))


def test_no_yes_at_all_is_not_divided_by(tmp_path):
    path = lines(tmp_path / "coco_pope_random.json", question(1, "no"))
    assert Pope(path, BLIND).score({0: "no"}).scores["random"] == {
        "acc": 1, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0,
    }  # fmt: skip


def test_prompt_and_picture(tmp_path):
    path = lines(tmp_path / "pope/coco/coco_pope_random.json", question(1), question(2))
    draw(tmp_path / "pope/val2014/a.jpg")
    benchmark = Pope(path)
    assert asked(benchmark)[0] == "\nIs there a cat 1 in the image?" + SHORT
    assert benchmark.questions[0].picture == tmp_path / "pope/val2014/a.jpg"
    first, second = benchmark.samples()
    assert first.group == second.group and first.fingerprint != second.fingerprint


@pytest.mark.parametrize("place", ["pictures/a.jpg", "pictures/val2014/a.jpg"])
def test_image_folder(tmp_path, place):
    path = lines(tmp_path / "coco_pope_random.json", question(1))
    picture = draw(tmp_path / place)
    assert Pope(path, Options(image_folder=tmp_path / "pictures")).questions[0].picture == picture


def test_missing_pictures_are_named(tmp_path):
    path = lines(tmp_path / "coco_pope_random.json", question(1), question(2, image="gone.jpg"))
    draw(tmp_path / "val2014/a.jpg")
    with pytest.raises(DataError, match=r"1 of 2 pictures are not there, the first is .*val2014/gone.jpg"):
        Pope(path)


def test_llava_question_file_gives_the_ids_of_llava_answers(tmp_path):
    two_categories(tmp_path / "pope/coco")
    asked_lines = [
        {"question_id": number, "image": "a.jpg", "text": f"q{number}{SHORT}", "category": category}
        for number, category in [
            (10000001, "random"),
            (20000001, "popular"),
            (10000002, "random"),
            (20000002, "popular"),
        ]
    ]
    question_file = lines(tmp_path / "pope/llava_pope_test.jsonl", *asked_lines)
    answers = lines(
        tmp_path / "a.jsonl",
        *({"question_id": n, "prompt": "p", "text": text} for n, text in
          [(10000001, "Yes"), (10000002, "No"), (20000001, "No"), (20000002, "Yes")]),
    )  # fmt: skip
    for data_path in (tmp_path / "pope", question_file):
        scores = answered(Pope(data_path, BLIND), answers).scores
        assert (scores["random"]["acc"], scores["popular"]["acc"]) == (1, 0.5)
    assert asked(Pope(question_file, BLIND))[1] == f"\nq20000001{SHORT}"
    assert find_data(Pope, tmp_path) == [tmp_path / "pope"]


def test_llava_answers_without_question_file(tmp_path):
    answers = lines(tmp_path / "a.jsonl", {"question_id": 1, "prompt": "p", "text": "Yes"})
    with pytest.raises(DataError, match=r"a.jsonl:1: question 1 has no category. .*llava_pope_test.jsonl"):
        answered(Pope(two_categories(tmp_path / "coco"), BLIND), answers)
    one = Pope(lines(tmp_path / "one/coco_pope_random.json", question(1)), BLIND)
    assert answered(one, answers).scores["random"]["acc"] == 1


def test_question_file_that_does_not_fit_the_labels(tmp_path):
    two_categories(tmp_path / "coco")
    path = lines(tmp_path / "q.jsonl", {"question_id": 10000001, "image": "a.jpg", "text": "q", "category": "random"})
    with pytest.raises(DataError, match="1 questions of random, but .*coco_pope_random.json has 2 labels"):
        Pope(path, BLIND)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([question(1), question(2, "maybe")], r"random.json:2: label 'maybe' is neither yes nor no"),
        ([question(1), question(1)], r"category random, question_id 1 stands there twice"),
        ([{"question_id": 1, "text": "t", "label": "no"}], r"random.json:1: no 'image'"),
        ([], "it has no questions"),
    ],
)
def test_broken_data_says_where(tmp_path, entries, message):
    with pytest.raises(DataError, match=message):
        Pope(lines(tmp_path / "coco_pope_random.json", *entries), BLIND)


def test_broken_json_names_the_line(tmp_path):
    path = write(tmp_path / "coco_pope_random.json", json.dumps(question(1)) + "\n{broken\n")
    with pytest.raises(DataError, match=r"coco_pope_random.json:2: not JSON"):
        metrics_of("pope", path, path, tmp_path / "w")


def test_folder_without_label_files(tmp_path):
    with pytest.raises(DataError, match="no coco_pope_"):
        Pope(tmp_path, BLIND)


def test_two_files_of_one_category(tmp_path):
    for kind in ("gqa", "aokvqa"):
        lines(tmp_path / f"{kind}_pope_random.json", question(1))
    with pytest.raises(DataError, match="both of category random"):
        Pope(tmp_path, BLIND)


def test_unknown_ids_are_counted(tmp_path):
    data = lines(tmp_path / "coco_pope_random.json", question(1))
    given = lines(
        tmp_path / "p.jsonl",
        {"category": "random", "question_id": 1, "prediction": "yes", "answer": "no"},
        {"category": "random", "question_id": 9, "prediction": "yes"},
    )
    metrics = metrics_of("pope", data, given, tmp_path / "w")
    assert metrics["counts"]["predictions_unknown"] == 1 and metrics["scores"]["random"]["acc"] == 1


def test_ground_truth_is_no_prediction(tmp_path):
    data = lines(tmp_path / "coco_pope_random.json", question(1))
    given = lines(tmp_path / "p.jsonl", {"category": "random", "question_id": 1, "answer": "yes"})
    with pytest.raises(DataError, match="no 'prediction'"):
        answered(Pope(data, BLIND), given)


def test_without_labels_the_submission_is_written(tmp_path):
    data = lines(tmp_path / "coco_pope_random.json", question(1, None), question(2, None))
    given = lines(tmp_path / "p.jsonl", {"question_id": 1, "text": "Yes, a cat"})
    metrics = metrics_of("pope", data, given, tmp_path / "w")
    assert metrics["scores"] == {}
    written = (tmp_path / "w/pope_answers/random.json").read_text().splitlines()
    assert [json.loads(line) for line in written] == [
        {"question": "Is there a cat 1 in the image?", "answer": "Yes, a cat"},
        {"question": "Is there a cat 2 in the image?", "answer": ""},
    ]
