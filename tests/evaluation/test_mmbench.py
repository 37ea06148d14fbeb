"""MMBench: the scores that independent evaluators gave, and every odd table that one meets."""

import json
from pathlib import Path

import pytest
from openpyxl import load_workbook

from tests.evaluation.conftest import picture
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.mmbench import LETTER_CHINESE, LETTER_ENGLISH, MMBench
from vlmtool.evaluation.evaluate import score_given
from vlmtool.evaluation.files.predictions import read_predictions
from vlmtool.utils.errors import DataError

DATA = Path(__file__).parents[1] / "data" / "mmbench"


def texts(path: Path) -> list[str]:
    benchmark = MMBench(path)
    return [benchmark.prompt(sample)[0].content[1] for sample in benchmark.samples()]


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((DATA / "mmbench_expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def given() -> dict[int, str]:
    return read_predictions(DATA / "mmbench_predictions.jsonl")


def test_scores_agree_with_vlmevalkit(expected, given):
    scores = MMBench(DATA / "mmbench.tsv").score(given)
    assert scores.scores.keys() == expected["scores"].keys()
    for way, values in expected["scores"].items():
        assert scores.scores[way] == pytest.approx(values, abs=1e-9), way
    assert {str(row["index"]): row["hit"] for row in scores.rows} == expected["row_hit"]
    questions = {str(row["index"] % 1_000_000): row["circular_hit"] for row in scores.rows}
    assert questions == expected["circular_hit_by_question"]
    assert not scores.warnings and not scores.splits


def test_scores_agree_with_xtuner(expected, given):
    circular = MMBench(DATA / "mmbench.tsv", Options(extractor="xtuner")).score(given).scores["circular"]
    rule = dict(expected["xtuner_rule"])
    assert circular["Overall"] == pytest.approx(rule.pop("Average"), abs=1e-9)
    assert {name: circular[name] for name in rule} == pytest.approx(rule, abs=1e-9)


def test_prompt(write_table):
    row = {"question": "Is it?\nLook.", "hint": "A hint.", "C": "3", "D": "four"}
    benchmark = MMBench(write_table(row))
    (message,) = benchmark.prompt(benchmark.samples()[0])
    assert message.role == "user" and message.content[0].source.size == (8, 6)
    assert message.content[1] == f"\nA hint.\nIs it?\nLook.\nA. red\nB. green\nC. 3\nD. four\n{LETTER_ENGLISH}"


@pytest.mark.parametrize("column", ["question", "hint", "B"])
def test_chinese_text_is_asked_in_chinese(write_table, column):
    (text,) = texts(write_table({column: "红色"}))
    assert text.endswith("\n" + LETTER_CHINESE) and LETTER_ENGLISH not in text


@pytest.mark.parametrize("hint", ["", "  "])
def test_empty_hint_prints_nothing(write_table, hint):
    (text,) = texts(write_table({"hint": hint}))
    assert text == f"\nWhich?\nA. red\nB. green\n{LETTER_ENGLISH}"


def test_options_that_look_like_nothing_or_like_numbers_are_text(write_table):
    (text,) = texts(write_table({"A": "None", "B": "NA", "C": "nan", "D": "3"}))
    assert "A. None\nB. NA\nC. nan\nD. 3\n" in text


def test_number_of_options(write_table):
    columns = ("index", "question", "A", "B", "C", "D", "E", "image")
    assert "E. last\n" in texts(write_table({"C": "c", "D": "d", "E": "last"}, columns=columns))[0]
    two = ("index", "question", "A", "B", "image")
    assert texts(write_table({}, columns=two)) == [f"\nWhich?\nA. red\nB. green\n{LETTER_ENGLISH}"]


def test_one_option_is_an_error(write_table):
    with pytest.raises(DataError, match=r"table.tsv:2: index 0 has 1 option"):
        MMBench(write_table({"B": ""}))


def test_multi_line_cells_keep_the_line_numbers_right(write_table):
    path = write_table({"question": 'Say "two"\nlines'}, {"index": "1", "image": "77"})
    with pytest.raises(DataError, match=r"table.tsv:4: column 'image' of index 1 refers to index 77"):
        MMBench(path)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        ('2\t"an open quote\tred\tgreen\tx\n3\tWhich?\tred\tgreen\tx\n', 3),
        ('2\t"an open quote\tred\tgreen\tx\n3\t"Which\nof them?"\tred\tgreen\tx\n', 3),
        ('2\t"closed" too early\tred\tgreen\tx\n', 3),
    ],
)
def test_unbalanced_quote_names_the_line(tmp_path, broken, line):
    path = tmp_path / "q.tsv"
    path.write_text("index\tquestion\tA\tB\timage\n1\tWhich?\tred\tgreen\tx\n" + broken)
    with pytest.raises(DataError, match=rf"q.tsv:{line}: a quote in the row that starts on this line"):
        MMBench(path, Options(needs_pictures=False))


def test_row_with_lost_cells_names_the_line(tmp_path):
    path = tmp_path / "q.tsv"
    path.write_text("index\tquestion\tA\tB\timage\n1\tWhich?\tred\tgreen\n")
    with pytest.raises(DataError, match=r"q.tsv:2: 4 cells where the header has 5"):
        MMBench(path, Options(needs_pictures=False))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"index\tquestion\tA\tB\n", "a header and no rows"),
        (b"index,question,A,B\n1,q,a,b\n", "no column index, question, A, B"),
        (b"index\tindex\tA\n", "two columns are named 'index'"),
        (b"index\tquestion\tA\tB\n1\tq\ta\tb\n2\t\xff\ta\tb\n", r":3: not UTF-8"),
        (b"index\tquestion\tA\tB\n1.5\tq\ta\tb\n", r":2: column 'index' holds '1.5'"),
        (b"index\tquestion\tA\tB\n1\t\ta\tb\n", r":2: column 'question' of index 1 is empty"),
        (b"index\tquestion\tA\tB\tanswer\n1\tq\ta\tb\tC\n", r":2: column 'answer' of index 1 holds 'C'"),
        (b"index\tquestion\tA\tB\n1\tq\ta\tb\n1\tq\ta\tb\n", r":3: index 1 stands on line 2 already"),
    ],
)
def test_broken_tables_say_where(tmp_path, content, message):
    path = tmp_path / "t.tsv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        MMBench(path, Options(needs_pictures=False))


def test_byte_order_mark_windows_lines_and_empty_lines(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes(b"\xef\xbb\xbfindex\tquestion\tA\tB\r\n\r\n1.0\tq\ta\tb\r\n")
    assert [sample.index for sample in MMBench(path, Options(needs_pictures=False)).samples()] == [1]


def test_question_counts_only_if_every_rotation_is_right(write_table, question):
    benchmark = MMBench(write_table(*question))
    assert benchmark.score({0: "A", 1_000_000: "B"}).scores["circular"]["Overall"] == 1
    scores = benchmark.score({0: "A", 1_000_000: "A"}).scores
    assert [scores[way]["CP"] for way in ("circular", "vanilla_first", "vanilla_all")] == [0, 1, 0.5]


def test_missing_rotation_is_counted_and_named(write_table, question):
    scores = MMBench(write_table(question[0])).score({0: "A"})
    assert scores.counts["questions_with_missing_rotations"] == 1
    assert scores.warnings == ["1 question with fewer rotations than options: 0"]
    assert scores.scores["circular"]["Overall"] == 1


def test_missing_base_row_is_counted_and_left_out_of_circular(write_table, question):
    lost = {"index": "1000007", "answer": "A"}
    scores = MMBench(write_table(*question, lost)).score({0: "A", 1_000_000: "B", 1_000_007: "B"})
    assert (
        scores.counts["questions_without_base_row"] == 1
        and "1 question with rotations but no base row" in scores.warnings[0]
    )
    assert scores.scores["circular"]["Overall"] == 1
    assert scores.scores["vanilla_all"]["Overall"] == pytest.approx(2 / 3)
    assert scores.rows[-1]["circular_hit"] is None and scores.counts["questions_scored"] == 1


def test_missing_and_unknown_predictions_are_counted_and_named(write_table, question, tmp_path):
    given = tmp_path / "given.jsonl"
    given.write_text('{"index": 0, "prediction": "A"}\n{"index": 55, "prediction": "B"}\n')
    scores = score_given(MMBench(write_table(*question)), given, tmp_path / "w")
    assert (scores.counts["predictions_missing"], scores.counts["predictions_unknown"]) == (1, 1)
    assert any("1 row without a prediction, counted as wrong: 1000000" in text for text in scores.warnings)
    assert any("the data does not have: line 2" in text for text in scores.warnings)
    assert scores.scores["circular"]["Overall"] == 0


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("wrong", [None, 0, -1])
def test_a_question_has_as_many_rotations_as_options(write_table, size, wrong):
    """The options shift by one place from rotation to rotation; right only if each of them is."""
    words = ["red", "green", "blue", "grey"][:size]
    rows, said = [], {}
    for turn in range(size):
        options = dict(zip("ABCD", words[turn:] + words[:turn], strict=False))
        answer = next(letter for letter, word in options.items() if word == "red")
        rows.append({"index": str(7 + turn * 1_000_000), "answer": answer, **options})
        said[7 + turn * 1_000_000] = answer
    scores = MMBench(write_table(*rows)).score(said)
    assert scores.scores["circular"] == scores.scores["vanilla_all"] == {"Overall": 1, "CP": 1, "ocr": 1}
    assert not scores.warnings and scores.counts["questions_scored"] == 1
    if wrong is not None:
        said[list(said)[wrong]] = "neither"
        ways = MMBench(write_table(*rows)).score(said).scores
        assert ways["circular"]["Overall"] == 0 and ways["vanilla_all"]["Overall"] == pytest.approx(1 - 1 / size)
        assert ways["vanilla_first"]["Overall"] == (0 if wrong == 0 else 1)


def test_more_rotations_than_options_are_counted_and_named(write_table, question):
    scores = MMBench(write_table(*question, {"index": "2000000"})).score({0: "A", 1_000_000: "B", 2_000_000: "B"})
    assert scores.counts["questions_with_too_many_rotations"] == 1
    assert scores.warnings == ["1 question with more rotations than options: 0"]
    assert scores.scores["circular"]["Overall"] == 0  # every rotation counts


def test_every_row_is_scored_or_counted(write_table, question):
    lost = {"index": "1000007"}, {"index": "8", "answer": ""}, {"index": "9"}, {"index": "1000009", "answer": ""}
    counts = MMBench(write_table(*question, *lost)).score({}).counts
    assert counts["rows"] == 6 == counts["rows_scored"] + counts["rows_without_answer"] == 4 + 2
    assert counts["questions"] == 3 == counts["questions_scored"] + counts["questions_with_unanswered_rows"] == 1 + 2
    assert counts["questions_without_base_row"] == 1


def test_what_is_right_comes_from_the_data_not_from_the_predictions(write_table, tmp_path):
    given = tmp_path / "given.tsv"
    given.write_text("index\tprediction\tanswer\tcategory\tA\n0\tB\tB\tmine\tgreen\n")
    scores = score_given(MMBench(write_table({})), given, tmp_path / "w").scores
    assert scores["vanilla_all"] == {"Overall": 0, "CP": 0, "ocr": 0}


def test_an_option_that_looks_like_nothing_can_be_chosen(write_table):
    benchmark = MMBench(write_table({"A": "None", "B": "nan", "answer": "B", "category": "NA"}))
    scores = benchmark.score({0: "It is nan"})
    assert scores.rows[0]["extracted"] == "B" and scores.scores["vanilla_all"]["NA"] == 1


def test_long_answers_stay_whole_beside_the_submission(write_table, tmp_path):
    given = tmp_path / "given.jsonl"
    said = "=1+1\x07" + "x" * 40_000
    given.write_text(json.dumps({"index": 0, "prediction": said}) + "\n")
    score_given(MMBench(write_table({})), given, tmp_path / "w")
    assert read_predictions(tmp_path / "w" / "predictions.jsonl") == {0: said}
    rows = list(load_workbook(tmp_path / "w" / "mmbench_result.xlsx").active.iter_rows(values_only=True))
    cells = dict(zip(*rows, strict=True))
    assert cells["prediction"] == ("=1+1" + "x" * 40_000)[:32_767] and cells["answer"] == "A"


def test_ccbench_and_test_files(write_table, tmp_path):
    columns = ("index", "question", "A", "B", "C", "D", "category", "image")  # no answer, hint, l2-category, split
    rows = {"index": "0"}, {"index": "1000000", "image": "0"}
    benchmark = MMBench(write_table(*rows, columns=columns))
    scores = benchmark.score({0: "A"})
    assert (scores.scores, scores.headline) == ({}, None) and scores.counts["rows_without_answer"] == 2
    path = benchmark.write_submission({0: "A", 1_000_000: "B"}, tmp_path)
    header, *lines = load_workbook(path).active.iter_rows(values_only=True)
    assert [line[header.index("prediction")] for line in lines] == ["A", "B"]


@pytest.mark.parametrize("columns", [("index", "question", "A", "B", "image"), None])
def test_without_answers_there_is_no_score(write_table, question, columns):
    rows = [row | {"answer": ""} for row in question]
    scores = MMBench(write_table(*rows, **({"columns": columns} if columns else {}))).score({0: "A", 1_000_000: "B"})
    assert scores.scores == {} and not scores.warnings
    assert scores.rows[0] == {"index": 0, "extracted": "A", "hit": None, "circular_hit": None}


def test_rows_without_answer_among_others_are_counted(write_table, question):
    scores = MMBench(write_table(*question, {"index": "7", "answer": "", "split": "test"})).score(
        {0: "A", 1_000_000: "B"}
    )
    assert any("1 row without an answer, not scored: 7" in text for text in scores.warnings)
    assert scores.scores["vanilla_all"]["Overall"] == 1


def test_split_hint_and_l2_category_may_be_absent(write_table):
    columns = ("index", "question", "A", "B", "answer", "category", "image")
    scores = MMBench(write_table({"category": "sketch_reasoning"}, columns=columns)).score({0: "A"})
    assert scores.scores["vanilla_all"] == {"Overall": 1, "sketch_reasoning": 1}
    assert scores.splits == {}


def test_several_splits_are_scored_apart(write_table):
    path = write_table({"index": "1", "split": "dev"}, {"index": "2", "split": "test"})
    scores = MMBench(path).score({1: "A", 2: "B"})
    assert {name: values["circular"]["Overall"] for name, values in scores.splits.items()} == {"dev": 1, "test": 0}
    assert scores.scores["circular"]["Overall"] == 0.5


def test_fingerprint_follows_text_and_picture(write_table):
    def fingerprint(row: dict[str, str]) -> str:
        return MMBench(write_table(row)).samples()[0].fingerprint

    same = {fingerprint({}), fingerprint({"index": "5", "category": "another"})}
    assert len(same) == 1
    others = {fingerprint({"hint": "x"}), fingerprint({"image": picture(size=(2, 2))})}
    assert len(others | same) == 3
