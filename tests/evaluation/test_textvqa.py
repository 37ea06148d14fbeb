"""TextVQA: the score that LLaVA's evaluator gave, with and without recognised text, and every odd file."""

import json
from pathlib import Path

import pytest

from tests.evaluation.made_files import answered, asked, assert_same_scores, draw, metrics_of, write, write_lines
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.textvqa import TextVQA
from vlmtool.evaluation.catalog import find_data
from vlmtool.evaluation.questions import SHORT
from vlmtool.utils.errors import DataError, UsageError

DATA = Path(__file__).parents[1] / "data" / "textvqa"
BLIND = Options(needs_pictures=False)
WITH_TOKENS = Options(needs_pictures=False, ocr_tokens=True)
NAME = "TextVQA_0.5.1_val.json"


def question(number: int, text: str = "what is it?", image: str = "f00", **more: object) -> dict:
    return {"question_id": number, "image_id": image, "question": text, "answers": ["nike"] * 10} | more


def annotations(folder: Path, *questions: dict) -> Path:
    return write(folder / NAME, json.dumps({"data": questions}))


def llava_line(text: str, tokens: str | None = None, image: str = "f00") -> dict:
    line = "" if tokens is None else f"\nReference OCR token: {tokens}"
    return {"question_id": image, "image": f"{image}.jpg", "text": text + line + SHORT, "category": "default"}


def test_score_agrees_with_llavas_evaluator(tmp_path):
    metrics = metrics_of("textvqa", DATA / NAME, DATA / "textvqa_predictions.jsonl", tmp_path)
    expected = json.loads((DATA / "textvqa_expected.json").read_text())["scores"]
    assert_same_scores(metrics["scores"], {"accuracy": expected["m4c"]})


def test_score_by_hand(tmp_path):
    path = annotations(tmp_path, question(1), question(2, answers=["red"] * 2 + ["x"] * 8), question(3))
    scores = TextVQA(path, BLIND).score({0: "The Nike.", 1: "red"})
    assert scores.scores == {"accuracy": pytest.approx(100 * (1 + 0.6 + 0) / 3)}
    assert scores.headline == ("accuracy", scores.scores["accuracy"])
    assert [row["hit"] for row in scores.rows] == [1, pytest.approx(0.6), 0]


def test_prompt_without_tokens(tmp_path):
    path = annotations(tmp_path, question(1, "what does the Sign say?", ocr_tokens=["STOP"]))
    assert asked(TextVQA(path, BLIND)) == ["\nWhat does the sign say?" + SHORT]  # as LLaVA's file has it


def test_tokens_of_the_data(tmp_path):
    path = annotations(tmp_path, question(1, ocr_tokens=["STOP", "4-WAY"]), question(2, image="f01", ocr_tokens=[]))
    assert asked(TextVQA(path, WITH_TOKENS)) == [
        f"\nWhat is it?\nReference OCR token: STOP, 4-WAY{SHORT}",
        f"\nWhat is it?\nReference OCR token: {SHORT}",
    ]


def test_tokens_of_llavas_file_beside(tmp_path):
    path = annotations(tmp_path, question(1), question(2, image="f01"))
    write_lines(tmp_path / "llava_textvqa_val_v051_ocr.jsonl", llava_line("What is it?", "a, b", "f01"))
    assert asked(TextVQA(path, WITH_TOKENS)) == [
        f"\nWhat is it?\nReference OCR token: {SHORT}",
        f"\nWhat is it?\nReference OCR token: a, b{SHORT}",
    ]


def test_tokens_of_rosettas_file_beside(tmp_path):
    path = annotations(tmp_path, question(1))
    rosetta = {"data": [{"image_id": "f00", "ocr_tokens": ["a", "b"]}]}
    write(tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json", json.dumps(rosetta))
    assert asked(TextVQA(path, WITH_TOKENS)) == [f"\nWhat is it?\nReference OCR token: a, b{SHORT}"]


def test_tokens_asked_for_and_nowhere_to_be_found(tmp_path):
    with pytest.raises(UsageError, match="--ocr-tokens: no recognised text beside"):
        TextVQA(annotations(tmp_path, question(1)), WITH_TOKENS)


@pytest.mark.parametrize("tokens", [None, "", "NIKE, air"])
def test_llava_answers_are_joined_by_picture_and_question(tmp_path, tokens):
    path = annotations(tmp_path, question(1, "what brand is it?"), question(2, "what colour is it?"))
    line = llava_line("What colour is it?", tokens)
    given = {"question_id": "f00", "prompt": line["text"], "text": "Nike"}
    other = given | {"prompt": llava_line("Who is it?", tokens)["text"]}
    unknown: list[str] = []
    scores = answered(TextVQA(path, BLIND), write_lines(tmp_path / "a.jsonl", given, other), unknown.append)
    assert [row["hit"] for row in scores.rows] == [0, 1] and unknown == ["line 2"]


def test_llavas_question_file(tmp_path):
    annotations(tmp_path, question(7, "what is it?"), question(8, "not asked"))
    path = write_lines(tmp_path / "q.jsonl", llava_line("What is it?", "a"), llava_line("What else?", "a"))
    picture = draw(tmp_path / "train_images/f00.jpg")
    benchmark = TextVQA(path)
    assert asked(benchmark) == [f"\nWhat is it?{SHORT}", f"\nWhat else?{SHORT}"]
    assert benchmark.questions[0].picture == picture
    assert asked(TextVQA(path, WITH_TOKENS))[0] == f"\nWhat is it?\nReference OCR token: a{SHORT}"
    scores = benchmark.score({0: "nike", 1: "nike"})
    assert scores.scores == {"accuracy": 100} and scores.counts["questions_without_answer"] == 1
    assert benchmark.index_of({"question_id": 7}) == 0


def test_places_and_folder(tmp_path):
    path = annotations(tmp_path / "textvqa", question(1))
    assert find_data(TextVQA, tmp_path) == [path]
    assert len(TextVQA(tmp_path / "textvqa", BLIND).questions) == 1
    with pytest.raises(DataError, match="has none of TextVQA_0.5.1_val.json"):
        TextVQA(tmp_path, BLIND)


def test_missing_pictures_are_named(tmp_path):
    path = annotations(tmp_path, question(1))
    with pytest.raises(DataError, match=r"1 of 1 pictures are not there, the first is .*train_images/f00.jpg"):
        TextVQA(path)
    picture = draw(tmp_path / "elsewhere/f00.jpg")
    assert TextVQA(path, Options(image_folder=tmp_path / "elsewhere")).questions[0].picture == picture


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": [', "not JSON .*line 1"),
        ('{"questions": []}', "not a list of questions"),
        ('{"data": [3]}', "question 1 is not a JSON object"),
        ('{"data": []}', "it has no questions"),
        (json.dumps({"data": [{"question_id": 1, "question": "q"}]}), "question 1: no 'image_id'"),
        (json.dumps({"data": [question(1), question(1)]}), "question_id 1 stands there twice"),
        (json.dumps({"data": [question(1, answers=["a", 2, "b", "c"])]}), "question 1: 'answers' is not a list"),
        (json.dumps({"data": [question(1, answers=["a"])]}), "question 1: 'answers' is not a list of 4 or more"),
        (json.dumps({"data": [question(1, answers="nike")]}), "question 1: 'answers' is not a list"),
    ],
)
def test_broken_data_says_where(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        TextVQA(write(tmp_path / NAME, content), BLIND)


def test_test_split_writes_the_submission(tmp_path):
    path = annotations(tmp_path, *({**question(n), "answers": []} for n in (1, 2)))
    given = write_lines(
        tmp_path / "p.jsonl", {"question_id": 2, "prediction": "Nike."}, {"question_id": 9, "text": "x"}
    )
    metrics = metrics_of("textvqa", path, given, tmp_path / "w")
    assert metrics["scores"] == {} and metrics["counts"]["predictions_unknown"] == 1
    assert json.loads((tmp_path / "w/textvqa_submission.json").read_text()) == [
        {"question_id": 1, "answer": ""}, {"question_id": 2, "answer": "Nike."},
    ]  # fmt: skip


def test_index_of_another_tool_is_not_taken_for_ours(tmp_path):
    path = annotations(tmp_path, question(1, "what brand is it?"))
    given = write_lines(tmp_path / "p.jsonl", {"index": 0, "question": "who is it?", "prediction": "Nike"})
    with pytest.raises(DataError, match="p.jsonl:1: index 0 is another question here"):
        answered(TextVQA(path, BLIND), given)
