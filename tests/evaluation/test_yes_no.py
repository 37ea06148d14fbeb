"""Yes/no tables: what is asked, what is read out of an answer, and the five numbers."""

import pytest

from tests.evaluation.made_files import answered, write_lines
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.yes_no import YesNo
from vlmtool.evaluation.reading.extract import yes_no_words
from vlmtool.evaluation.report import report
from vlmtool.utils.errors import DataError, UsageError

COLUMNS = ("index", "question", "answer", "category", "image")


def table(write_table, answers: str, categories: str = ""):
    """One row a letter: y, n, or - for no answer."""
    words = {"y": "Yes", "n": "no", "-": ""}
    names = categories or "v" * len(answers)
    rows = [
        {"index": str(number), "question": f"Is it {number}?", "answer": words[answer], "category": category}
        for number, (answer, category) in enumerate(zip(answers, names, strict=True))
    ]
    return write_table(*rows, columns=COLUMNS)


def test_the_five_numbers(write_table):
    # Yes Yes Yes No No No, said: yes, no, neither, yes, no, nothing at all.
    benchmark = YesNo(table(write_table, "yyynnn"))
    scores = benchmark.score({0: "Yes.", 1: "no", 2: "maybe", 3: "yes", 4: "No, it is not"})
    assert scores.scores["Overall"] == {
        "accuracy": 2 / 6,
        "precision": 1 / 2,  # of two yes
        "recall": 1 / 3,  # of three that are
        "f1": pytest.approx(2 / 5),
        "yes_ratio": 2 / 6,
    }
    assert scores.scores["v"] == scores.scores["Overall"]
    assert scores.headline == ("accuracy", pytest.approx(100 / 3))
    assert scores.counts["answers_unreadable"] == 1
    assert [row["hit"] for row in scores.rows] == [1, 0, 0, 0, 1, 0]


def test_categories_are_scored_apart(write_table):
    scores = YesNo(table(write_table, "ynyn", "aabb")).score({0: "Yes", 1: "No", 2: "No", 3: "No"}).scores
    assert [scores[name]["accuracy"] for name in ("Overall", "a", "b")] == [0.75, 1, 0.5]
    assert scores["b"] == {"accuracy": 0.5, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0}


def test_a_category_named_like_the_whole(write_table):
    path = write_table({"answer": "Yes", "category": "Overall"}, {"index": "1", "answer": "No", "category": "b"})
    scores = YesNo(path).score({0: "Yes", 1: "Yes"}).scores
    assert scores["Overall"]["accuracy"] == 0.5 and scores["Overall (category)"]["accuracy"] == 1


def test_rows_without_answer_are_counted(write_table):
    scores = YesNo(table(write_table, "y-")).score({0: "Yes", 1: "Yes"})
    assert scores.scores["Overall"]["yes_ratio"] == 1 and scores.scores["Overall"]["accuracy"] == 1
    assert (scores.counts["rows_scored"], scores.counts["rows_without_answer"]) == (1, 1)
    assert YesNo(table(write_table, "--")).score({0: "Yes"}).scores == {}


def test_prompt_and_choices(write_table):
    benchmark = YesNo(table(write_table, "y"))
    (sample,) = benchmark.samples()
    (message,) = benchmark.prompt(sample)
    assert message.content[1] == "\nIs it 0?\nAnswer the question using a single word or phrase."
    assert message.content[0].source.size == (8, 6) and benchmark.choices(sample) == ("Yes", "No")


def test_names_as_hallusionbench_has_them(write_table):
    rows = [{"index": f"VD_figure_0_1_{i}", "answer": "Yes"} for i in range(2)]
    benchmark = YesNo(write_table(*rows, columns=COLUMNS))
    assert benchmark.index_of({"index": "VD_figure_0_1_1", "prediction": "x"}) == 1
    assert benchmark.cards({}, benchmark.score({}))[1].title == "VD_figure_0_1_1"


@pytest.mark.parametrize("answer", ["maybe", "1", "A"])
def test_another_answer_names_line_and_column(write_table, answer):
    path = write_table({"answer": "No"}, {"index": "1", "answer": answer}, columns=COLUMNS)
    with pytest.raises(DataError, match=rf"table.tsv:3: column 'answer' of index 1 holds '{answer}'. It must be Yes"):
        YesNo(path)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Yes", "Yes"), ("no.", "No"), ("Yes, it is.", "Yes"), ("It is: yes", "Yes"), ("yes,no", None),
        ("No! Yes!", None), ("yesterday", None), ("not", None), ("", None), ("**Yes**", None), ("yes-man", "Yes"),
        ("well -yes", "Yes"), ("yes -man", "Yes"), ("1,000 yes,", "Yes"), ("3,4 yes-man", None), ("y.e.s", "Yes"),
        ("是", None),
    ],
)  # fmt: skip
def test_words_are_read_as_vlmevalkit_reads_them(said, read):
    assert yes_no_words(said, {}) == read


def test_other_rules_are_for_letters(write_table):
    path = table(write_table, "y")
    with pytest.raises(UsageError, match="Use one of: vlmeval, all"):
        YesNo(path, Options(extractor="xtuner"))
    assert YesNo(path, Options(extractor="all")).score({0: "yes"}).extra["extractors"].keys() == {"vlmeval"}


def test_llavas_answers_are_read(write_table, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", *(
        {"question_id": number, "prompt": "Is it?", "text": said, "answer_id": "x", "model_id": "m"}
        for number, said in enumerate(("Yes", "no"))
    ))  # fmt: skip
    assert answered(YesNo(table(write_table, "yn")), path).scores["Overall"]["accuracy"] == 1


@pytest.mark.parametrize(("said", "is_told"), [(["yes"] * 9 + ["?"], False), (["yes"] * 8 + ["?", "!"], True)])
def test_many_unreadable_answers_are_told_with_the_rule(write_table, tmp_path, capsys, said, is_told):
    report(YesNo(table(write_table, "y" * 10)), dict(enumerate(said)), tmp_path)
    printed = capsys.readouterr()
    assert ("2 of 10 answers could not be read; the rule is vlmeval" in printed.err) == is_told
    assert "vlmeval (one of the words yes and no, not both)" in printed.out
