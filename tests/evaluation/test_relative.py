"""The relative score: what the judge sees, how its points are read, and the ratio of their sums."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from tests.evaluation.judge_server import serving
from vlmtool.cli.eval import evaluate
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.relative import RelativeScore, read_points
from vlmtool.evaluation.judging.chat_api import ChatClient
from vlmtool.evaluation.judging.judge import ChatJudge
from vlmtool.utils.errors import DataError, UsageError

QUESTIONS = [
    {"question_id": 0, "image": "000000441147.jpg", "text": "Which colours?", "category": "conv"},
    {"question_id": 1, "image": "000000441147.jpg", "text": "Describe it.", "category": "detail"},
    {"question_id": 2, "image": "000000353536.jpg", "text": "Why is it there?", "category": "complex"},
]
CONTEXTS = [
    {"image": "000000441147.jpg", "captions": ["Two cases.", "Old luggage."],
     "instances": [{"category": "suitcase", "bbox": [0.1, 0.2, 0.3, 0.4]}]},
    {"image": "000000353536.jpg", "captions": ["A table."], "instances": []},
]  # fmt: skip
ANSWERS = {0: "Red.", 1: "A long text.", 2: "Nobody knows."}


def lines(entries: list[dict]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "coco2014_val_qa_eval"
    folder.mkdir()
    (folder / "qa90_questions.jsonl").write_text(lines(QUESTIONS))
    references = [{"question_id": q["question_id"], "text": f"Reference {q['question_id']}."} for q in QUESTIONS]
    (folder / "qa90_gpt4_answer.jsonl").write_text(lines(references))
    (folder / "caps_boxes_coco2014_val_80.jsonl").write_text(lines(CONTEXTS))
    return folder / "qa90_questions.jsonl"


def judged(file: Path, server) -> RelativeScore:
    judge = ChatJudge(ChatClient(server.url, "stand-in", None, 10.0), file.parent / "judge.jsonl", wait=0.001)
    return RelativeScore(file, Options(needs_pictures=False, judge=judge))


def by_question(replies: dict[str, str]):
    return lambda prompt, number: next(reply for word, reply in replies.items() if word in prompt)


def test_the_score_is_the_ratio_of_sums(file):
    replies = {"colours": "8 6\nThe first is better.", "Describe": "9, 9.5", "Why": "10 2"}
    with serving(by_question(replies)) as server:
        scores = judged(file, server).score(ANSWERS)
    # 100 * (6 + 9.5 + 2) / (8 + 9 + 10): not the mean of three ratios, which is 66.9.
    assert scores.scores == pytest.approx({"all": 100 * 17.5 / 27, "conv": 75, "detail": 100 * 9.5 / 9, "complex": 20})
    assert scores.headline == ("relative score", pytest.approx(64.8148148148))
    assert [row["extracted"] for row in scores.rows] == ["8 6", "9 9.5", "10 2"]
    assert scores.extra["judge"]["calls"] == 3


def test_the_judge_sees_context_question_and_both_answers(file):
    with serving(by_question({"": "5 5"})) as server:
        judged(file, server).score(ANSWERS)
    prompt = server.prompts[0]
    assert "Two cases.\nOld luggage.\n\nsuitcase: [0.1, 0.2, 0.3, 0.4]\n\nQuestion: Which colours?\n" in prompt
    assert "--- Answer 1 ---\nReference 0.\n--- Answer 2 ---\nRed.\n" in prompt  # the reference first, as in LLaVA's
    assert "A table.\n\nQuestion: Why is it there?" in server.prompts[2]


def test_a_missing_answer_does_not_drop_the_references_points(file):
    def answer(prompt: str, number: int) -> str:
        return "8 1" if "--- Answer 2 ---\n\n" in prompt else "8 8"

    with serving(answer) as server:
        scores = judged(file, server).score({0: "Red."})
    assert scores.scores["all"] == pytest.approx(100 * (8 + 1 + 1) / 24)


def test_a_review_that_cannot_be_read_is_told_and_not_minus_one(file):
    replies = {"colours": "8 6", "Describe": "Both are fine.", "Why": "10 2"}
    with serving(by_question(replies)) as server:
        scores = judged(file, server).score(ANSWERS)
    label = "only 2 of 3 answers graded"
    assert scores.scores == {label: pytest.approx({"all": 100 * 8 / 18, "conv": 75, "complex": 20})}
    assert scores.headline == (f"relative score, {label}", pytest.approx(100 * 8 / 18))
    assert "1 of 3 answers have no grade" in scores.warnings[0]


@pytest.mark.parametrize(
    ("reply", "points"),
    [
        ("8 7", (8, 7)), ("8, 7", (8, 7)), ("8.5 10\nText 3 4", (8.5, 10)), ("**8 7**", (8, 7)),
        ("8", None), ("8 7 6", None), ("0 7", None), ("11 7", None), ("8/10 7/10", None), ("I say 8 7", None),
        ("-1 -1", None), ("", None), ("87", None),
    ],
)  # fmt: skip
def test_points_are_read_from_the_first_line(reply, points):
    assert read_points(reply) == points


def test_pictures_go_by_cocos_name_too(file, tmp_path):
    pictures = tmp_path / "val2014"
    pictures.mkdir()
    for entry in CONTEXTS:
        Image.new("RGB", (4, 4)).save(pictures / f"COCO_val2014_{entry['image']}")
    with serving(by_question({"": "5 5"})) as server:
        judge = judged(file, server).options.judge
        for options in (Options(judge=judge), Options(judge=judge, image_folder=pictures)):
            benchmark = RelativeScore(file, options)
            assert benchmark.prompt(benchmark.samples()[0])[0].content[1] == "\nWhich colours?"
            assert {q.picture.name for q in benchmark.questions} == {p.name for p in pictures.iterdir()}


def test_the_bench_in_the_wild_has_the_same_form(tmp_path):
    folder = tmp_path / "llava-bench-in-the-wild"
    folder.mkdir()
    (folder / "questions.jsonl").write_text(lines([{**QUESTIONS[0], "image": "001.jpg"}]))
    (folder / "context.jsonl").write_text(lines([{"id": "001", "image": "001.jpg", "caption": "A palace."}]))
    (folder / "answers_gpt4.jsonl").write_text(lines([{"question_id": 0, "text": "Gold."}]))
    with serving(by_question({"": "5 4"})) as server:
        assert judged(folder / "questions.jsonl", server).score({0: "Red."}).scores["all"] == 80
    assert "A palace.\n\nQuestion: Which colours?" in server.prompts[0] and "Gold." in server.prompts[0]


def test_what_lacks_is_named(file):
    with pytest.raises(UsageError, match="--judge-url"):
        RelativeScore(file, Options(needs_pictures=False))
    (file.parent / "qa90_gpt4_answer.jsonl").write_text(lines([{"question_id": 0, "text": "Reference."}]))
    with pytest.raises(DataError, match="qa90_questions.jsonl:2: no reference answer"):
        RelativeScore(file, Options(needs_pictures=False))
    (file.parent / "caps_boxes_coco2014_val_80.jsonl").unlink()
    with pytest.raises(DataError, match="qa90_questions.jsonl:1: no captions"):
        RelativeScore(file, Options(needs_pictures=False))


def test_answers_are_written_as_llavas_script_takes_them(file):
    with serving(by_question({"": "5 5"})) as server:
        path = judged(file, server).write_submission(ANSWERS, file.parent)
    first = json.loads(path.read_text().splitlines()[0])
    assert first == {"question_id": 0, "prompt": "Which colours?", "text": "Red.", "category": "conv"}


def test_without_a_judge_eval_all_leaves_it_out(file):
    app = Typer()
    app.command()(evaluate)
    root, work = file.parent.parent, file.parent / "work"
    result = CliRunner().invoke(app, ["all", "model", "--data-root", str(root), "--work-dir", str(work)])
    assert "relative is left out: it needs --judge-url and --judge-model" in result.output
    assert isinstance(result.exception, UsageError)
