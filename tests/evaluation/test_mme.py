"""MME: the scores that the official rule gave, both rules, the layouts in the wild and every odd folder."""

import json
from pathlib import Path

import pytest

from tests.evaluation.made_files import answered, asked, assert_same_scores, draw, metrics_of, write, write_lines
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.mme import MME, SUB_TASKS, official, vlmeval
from vlmtool.evaluation.questions import SHORT
from vlmtool.utils.errors import DataError, UsageError

DATA = Path(__file__).parents[1] / "data" / "mme"
BLIND = Options(needs_pictures=False)
PAIR = "Is it red? Please answer yes or no.\tYes\nIs it blue?  Please answer yes or no.\tNo\n"


def test_scores_agree_with_the_official_rule(tmp_path):
    metrics = metrics_of("mme", DATA / "MME", DATA / "mme_predictions.jsonl", tmp_path)
    assert_same_scores(metrics["scores"], json.loads((DATA / "mme_expected.json").read_text())["scores"])
    assert metrics["extractor"] == "official" and len(metrics["warnings"]) == 1
    assert metrics["warnings"][0].startswith("58 of 224 answers could not be read; the rule is official (yes or no in")


def words_only(prediction: str) -> str | None:
    """VLMEvalKit's rule for texts whose only marks are full stops and commas after a word."""
    words = prediction.lower().replace(".", "").replace(",", "").split()
    return {(True, False): "yes", (False, True): "no"}.get(("yes" in words, "no" in words))


def test_the_rule_by_words_scores_otherwise(tmp_path):
    metrics = metrics_of("mme", DATA / "MME", DATA / "mme_predictions.jsonl", tmp_path, "--extractor", "vlmeval")
    entries = [json.loads(line) for line in (DATA / "mme_predictions.jsonl").read_text().splitlines()]
    hits: dict[str, list[bool]] = {}
    for entry in entries:
        hits.setdefault(entry["category"], []).append(words_only(entry["prediction"]) == entry["answer"].lower())
    for task, right in hits.items():
        both = [first and second for first, second in zip(right[::2], right[1::2], strict=True)]
        expected = 100 * sum(right) / len(right) + 100 * sum(both) / len(both)
        assert metrics["scores"][task] == pytest.approx(expected, abs=1e-9), task
    assert metrics["scores"]["perception"] < 718.75  # what the official rule gives
    assert metrics["extractor"] == "vlmeval"


@pytest.mark.parametrize(
    ("prediction", "by_start", "by_words"),
    [
        ("Yes.", "yes", "yes"), (" No", "no", "no"), ("Not at all", "no", None), ("eyes", "yes", None),
        ("Nothing", "no", None), ("the answer is yes", None, "yes"), ("yes and no", "yes", None), ("Yep", None, None),
        ("", None, None), ("  no", "no", "no"), ("  yes", None, "yes"), ("(yes)", "yes", "yes"),
    ],
)  # fmt: skip
def test_both_rules(prediction, by_start, by_words):
    assert (official(prediction), vlmeval(prediction)) == (by_start, by_words)


def test_unknown_rule(tmp_path):
    write(tmp_path / "OCR/1.txt", PAIR)
    with pytest.raises(UsageError, match="Use one of: official, vlmeval"):
        MME(tmp_path, Options(extractor="strict", needs_pictures=False))


@pytest.mark.parametrize(
    ("above", "texts", "pictures"),
    [
        ("", "OCR", "OCR"),
        ("", "artwork/questions_answers_YN", "artwork/images"),
        ("MME_Benchmark_release_version", "OCR", "OCR"),
        ("MME_Benchmark_release_version/MME_Benchmark", "artwork/questions_answers_YN", "artwork/images"),
        ("images", "OCR", "OCR"),
    ],
)
def test_layouts(tmp_path, above, texts, pictures):
    write(tmp_path / above / texts / "0001.txt", PAIR)
    picture = draw(tmp_path / above / pictures / "0001.png")
    benchmark = MME(tmp_path)
    assert [question.picture for question in benchmark.questions] == [picture, picture]
    assert asked(benchmark) == [f"\nIs it red?{SHORT}", f"\nIs it blue?{SHORT}"]
    assert benchmark.score({0: "yes", 1: "no"}).scores[texts.split("/")[0]] == 200


def test_pictures_elsewhere(tmp_path):
    write(tmp_path / "data/OCR/0001.txt", PAIR)
    picture = draw(tmp_path / "pictures/OCR/0001.jpg")
    assert MME(tmp_path / "data", Options(image_folder=tmp_path / "pictures")).questions[0].picture == picture
    with pytest.raises(DataError, match=r"1 of 1 pictures are not there, the first is .*OCR/0001.jpg"):
        MME(tmp_path / "data")


def test_score_by_hand(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"count/{number}.txt", PAIR)
        write(tmp_path / f"code_reasoning/{number}.txt", PAIR)
    # count: 3 of 4 right, 1 of 2 pictures; code_reasoning: 1 of 4 (one missing), none.
    scores = MME(tmp_path, BLIND).score({0: "Yes", 1: "No", 2: "Yes", 3: "Yes", 4: "No", 5: "No", 6: "other"})
    assert scores.scores == {"count": 125, "code_reasoning": 25, "perception": 125, "cognition": 25}
    assert scores.headline == ("perception", 125)
    assert scores.counts["sub_tasks_missing"] == len(SUB_TASKS) - 2
    assert scores.warnings == ["12 of 14 sub-tasks are missing in the sums: "
                               "existence, position, color, posters, celebrity, … (7 more)"]  # fmt: skip


@pytest.mark.parametrize("content", [PAIR.splitlines()[0] + "\n", PAIR + "Is it?\tNo\n"])
def test_pictures_without_two_questions_are_counted(tmp_path, content):
    write(tmp_path / "OCR/0001.txt", content)
    scores = MME(tmp_path, BLIND).score({})
    assert scores.counts["pictures_without_two_questions"] == 1
    assert "1 picture without two questions: OCR/0001" in scores.warnings


@pytest.mark.parametrize("line", ["Is it blue? No", "Is it blue?\tperhaps", "Is\tit blue?\tNo", "Is it blue?\t"])
def test_broken_line_is_named(tmp_path, line):
    path = write(tmp_path / "OCR/0001.txt", PAIR.splitlines()[0] + "\n\n" + line + "\n")
    with pytest.raises(DataError, match=rf"{path}:3: not a question, a tab and Yes or No"):
        MME(tmp_path, BLIND)


def test_byte_order_mark_windows_lines_and_broken_text(tmp_path):
    path = tmp_path / "OCR/0001.txt"
    path.parent.mkdir()
    path.write_bytes(b"\xef\xbb\xbfIs it?\tYES\r\nIs it not?\tno\r\n")
    assert [question.answers for question in MME(tmp_path, BLIND).questions] == [("yes",), ("no",)]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        MME(tmp_path, BLIND)


def test_question_twice(tmp_path):
    write(tmp_path / "OCR/0001.txt", PAIR + PAIR)
    with pytest.raises(DataError, match="category OCR, image 0001, question is it red.? stands there twice"):
        MME(tmp_path, BLIND)


def test_folder_without_sub_tasks(tmp_path):
    with pytest.raises(DataError, match="no sub-task of MME"):
        MME(tmp_path, BLIND)


def llava(number: int, text: str, answer: str) -> dict:
    return {"question_id": f"artwork/images/{number}.jpg", "prompt": text + SHORT, "text": answer}


def test_answers_of_other_tools_are_joined(tmp_path):
    write(tmp_path / "MME/artwork/questions_answers_YN/1.txt", PAIR)
    unknown: list[str] = []
    answers = write_lines(
        tmp_path / "llava.jsonl",
        llava(1, "Is it red?", "Yes"), llava(1, "Is it blue?", "No"), llava(1, "Is it green?", "No"),
    )  # fmt: skip
    assert answered(MME(tmp_path / "MME", BLIND), answers, unknown.append).scores["artwork"] == 200
    assert unknown == ["line 3"]
    entry = {"index": 7, "category": "artwork", "image_path": "artwork/1.jpg"}
    other = write_lines(
        tmp_path / "vlmeval.jsonl",
        entry | {"question": "Is it red? Please answer yes or no.", "prediction": "No", "answer": "Yes"},
        entry | {"question": "Is it blue?", "prediction": "No", "answer": "No"},
    )
    assert answered(MME(tmp_path / "MME", BLIND), other).scores["artwork"] == 50  # the truth in it is not scored


def test_question_file_of_llava(tmp_path):
    write(tmp_path / "MME/MME_Benchmark_release_version/artwork/questions_answers_YN/1.txt", PAIR)
    picture = draw(tmp_path / "MME/MME_Benchmark_release_version/artwork/images/1.jpg")
    entry = {"question_id": "artwork/images/1.jpg", "image": "artwork/images/1.jpg", "category": "artwork"}
    path = write_lines(
        tmp_path / "MME/llava_mme.jsonl",
        *(entry | {"text": f"Is it {color}?{SHORT}"} for color in ("red", "blue", "green")),
    )
    benchmark = MME(path)
    assert asked(benchmark)[0] == f"\nIs it red?{SHORT}" and benchmark.questions[0].picture == picture
    scores = benchmark.score({0: "yes", 1: "no", 2: "no"})
    assert scores.scores["artwork"] == 200 and scores.counts["questions_without_answer"] == 1


def test_question_file_alone_gives_no_score(tmp_path):
    entry = {"question_id": "OCR/1.jpg", "image": "OCR/1.jpg", "category": "OCR", "text": f"Is it red?{SHORT}"}
    path = write_lines(tmp_path / "llava_mme.jsonl", entry)
    given = write_lines(tmp_path / "p.jsonl", {"index": 0, "prediction": "Yes,\tit\nis"})
    assert metrics_of("mme", path, given, tmp_path / "w")["scores"] == {}
    written = (tmp_path / "w/mme_results/OCR.txt").read_text()
    assert written == "1.jpg\tIs it red? Please answer yes or no.\t\tYes, it is\n"
    with pytest.raises(DataError, match="sub-task 'sports'"):
        MME(write_lines(tmp_path / "q.jsonl", entry | {"category": "sports"}), BLIND)


def test_official_result_files(tmp_path):
    write(tmp_path / "OCR/0001.txt", PAIR)
    folder = MME(tmp_path, BLIND).write_submission({0: "Yes", 1: "No\n"}, tmp_path)
    assert (folder / "OCR.txt").read_text() == (
        "0001.jpg\tIs it red? Please answer yes or no.\tYes\tYes\n"
        "0001.jpg\tIs it blue?  Please answer yes or no.\tNo\tNo\n"
    )
