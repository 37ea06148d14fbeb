"""Multiple-choice tables: their columns, their pictures, their scores, and which command they belong to."""

import json

import pytest
from openpyxl import load_workbook
from PIL import Image

from tests.evaluation.conftest import PICTURE
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.benchmarks.multiple_choice import MultipleChoice
from vlmtool.evaluation.benchmarks.yes_no import YesNo
from vlmtool.evaluation.report import report
from vlmtool.evaluation.tables.choice_table import LETTER_CHINESE, LETTER_ENGLISH
from vlmtool.utils.errors import DataError, UsageError

PATHS = ("index", "question", "A", "B", "answer", "category", "image_path")


@pytest.fixture
def four(write_table):
    """Four questions of two categories, two l2-categories and two splits."""
    return write_table(
        {"index": "1", "category": "ocr", "l2-category": "text", "split": "val"},
        {"index": "2", "category": "ocr", "l2-category": "text", "split": "val", "answer": "B"},
        {"index": "3", "category": "count", "l2-category": "text", "split": "test"},
        {"index": "4", "category": "count", "l2-category": "", "split": "test", "answer": "B"},
    )


def test_accuracy_is_counted_by_category_and_split(four):
    scores = MultipleChoice(four).score({1: "A", 2: "A", 3: "A", 4: "B."})  # right: 1, 3, 4
    assert scores.scores == {"Overall": 3 / 4, "text": 2 / 3, "count": 1, "ocr": 1 / 2}
    assert scores.splits == {
        "val": {"Overall": 1 / 2, "text": 1 / 2, "ocr": 1 / 2},
        "test": {"Overall": 1, "text": 1, "count": 1},
    }
    assert scores.headline == ("accuracy", 75.0)
    assert scores.counts == {"rows": 4, "rows_scored": 4, "rows_without_answer": 0, "answers_unreadable": 0}
    assert scores.rows[1] == {"index": 2, "extracted": "A", "hit": 0}


def test_a_category_may_be_named_like_an_ability_or_the_whole(write_table):
    rows = [
        {"index": "1", "category": "x", "l2-category": "Overall"},
        {"index": "2", "category": "y", "l2-category": "x"},
    ]
    scores = MultipleChoice(write_table(*rows)).score({1: "B", 2: "A"}).scores
    assert scores == {"Overall": 0.5, "Overall (l2-category)": 0, "x": 1, "x (category)": 0, "y": 1}


def test_mmstars_column_of_abilities_is_read(write_table):
    columns = ("index", "question", "A", "B", "answer", "category", "l2_category", "image")
    path = write_table({"l2_category": "fine"}, columns=columns)
    assert MultipleChoice(path).score({0: "A"}).scores == {"Overall": 1, "fine": 1, "ocr": 1}


def test_any_letters_may_be_there(write_table):
    columns = ("index", "question", "A", "B", "F", "Z", "answer", "image")
    row = {"F": "six", "Z": "last", "answer": "Z"}
    benchmark = MultipleChoice(write_table(row, columns=columns))
    (sample,) = benchmark.samples()
    (message,) = benchmark.prompt(sample)
    assert message.content[1] == f"\nWhich?\nA. red\nB. green\nF. six\nZ. last\n{LETTER_ENGLISH}"
    assert benchmark.choices(sample) == ("A", "B", "F", "Z")
    assert benchmark.score({0: "Z"}).scores == {"Overall": 1}


def test_chinese_is_asked_in_chinese_and_a_hint_comes_first(write_table):
    benchmark = MultipleChoice(write_table({"hint": "看图", "question": "Which?"}))
    (message,) = benchmark.prompt(benchmark.samples()[0])
    assert message.content[1] == f"\n看图\nWhich?\nA. red\nB. green\n{LETTER_CHINESE}"


def test_pictures_are_files_below_the_image_folder(write_table, tmp_path):
    (tmp_path / "pictures" / "sub").mkdir(parents=True)
    Image.new("RGB", (7, 5)).save(tmp_path / "pictures" / "sub" / "a.png")
    rows = [{"index": str(i), "image_path": "sub/a.png"} for i in range(2)]
    path = write_table(*rows, columns=PATHS)
    benchmark = MultipleChoice(path, Options(image_folder=tmp_path / "pictures"))
    samples = benchmark.samples()
    source = benchmark.prompt(samples[0])[0].images[0].source
    assert source == str(tmp_path / "pictures" / "sub" / "a.png")
    assert samples[0].group == samples[1].group and benchmark.cards({}, benchmark.score({}))[0].picture is not None
    with pytest.raises(DataError, match=r"table.tsv:2: column 'image_path' of index 0: no file .*--image-folder"):
        MultipleChoice(path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_text("no picture")
    with pytest.raises(DataError, match=r"table.tsv:2: column 'image_path' of index 0: .*no picture"):
        MultipleChoice(path)  # without --image-folder, beside the table


def test_a_changed_picture_file_changes_the_fingerprint(write_table, tmp_path):
    file = tmp_path / "a.png"
    path = write_table({"image_path": "a.png"}, columns=PATHS)
    prints = []
    for size in ((4, 4), (40, 40)):
        Image.new("RGB", size).save(file)
        prints.append(MultipleChoice(path).samples()[0].fingerprint)
    assert prints[0] != prints[1]


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.png", "a/../../b.png"])
def test_no_picture_is_read_outside_the_image_folder(write_table, name):
    with pytest.raises(DataError, match=r"table.tsv:2: column 'image_path' holds .*leads out of"):
        MultipleChoice(write_table({"image_path": name}, columns=PATHS))


def test_names_in_place_of_numbers(write_table):
    rows = {"index": "a_0", "image": PICTURE}, {"index": "a_1", "image": "a_0", "answer": "B"}
    benchmark = MultipleChoice(write_table(*rows))
    assert [sample.index for sample in benchmark.samples()] == [0, 1]
    assert benchmark.prompt(benchmark.samples()[1])[0].images[0].source.size == (8, 6)
    entries = [{"index": "a_1"}, {"index": 1}, {"index": "1"}, {"index": "a_7"}, {"index": 7}]
    assert [benchmark.index_of(entry) for entry in entries] == [1, 1, 1, None, None]
    assert benchmark.score({0: "A", 1: "A"}).rows[1] == {"index": 1, "name": "a_1", "extracted": "A", "hit": 0}


@pytest.mark.parametrize(("first", "second"), [("5", "a_1"), ("a_1", "5")])
def test_a_name_among_numbers_is_a_slip(write_table, first, second):
    with pytest.raises(DataError, match=rf"table.tsv:3: column 'index' holds '{second}'"):
        MultipleChoice(write_table({"index": first}, {"index": second}))


def test_rows_without_answer_are_counted(four, write_table):
    path = write_table({"index": "1"}, {"index": "2", "answer": ""})
    scores = MultipleChoice(path).score({1: "A", 2: "A"})
    assert scores.scores["Overall"] == 1 and scores.warnings == ["1 row without an answer, not scored: 2"]
    assert (scores.counts["rows"], scores.counts["rows_scored"], scores.counts["rows_without_answer"]) == (2, 1, 1)


def test_without_answers_there_is_no_score(write_table):
    scores = MultipleChoice(write_table({"answer": ""})).score({0: "A"})
    assert (scores.scores, scores.headline, scores.splits) == ({}, None, {})


def test_submission_has_what_other_tools_read(four, tmp_path):
    path = MultipleChoice(four).write_submission({1: "=A"}, tmp_path)
    header, first, *_ = load_workbook(path).active.iter_rows(values_only=True)
    assert path.name == "multiple_choice_result.xlsx"
    assert dict(zip(header, first, strict=True)) == {
        "index": 1, "question": "Which?", "A": "red", "B": "green", "prediction": "=A", "category": "ocr",
        "l2-category": "text", "answer": "A", "split": "val",
    }  # fmt: skip


def test_rotations_belong_to_mmbench(write_table, question):
    with pytest.raises(DataError, match=r"table.tsv:3: index 1000000 is a rotation.*vlmtool mmbench"):
        MultipleChoice(write_table(*question))
    large = {"index": "0"}, {"index": "1000000", "question": "Another?"}
    assert len(MultipleChoice(write_table(*large)).samples()) == 2


def test_mmbench_says_where_tables_without_rotations_belong(write_table):
    scores = MMBench(write_table({"index": "1"}, {"index": "2"})).score({})
    assert "`vlmtool eval multiple_choice`" in scores.warnings[0]


@pytest.mark.parametrize("kind", [MMBench, MultipleChoice])
def test_yes_no_tables_are_sent_on(write_table, kind):
    path = write_table({"answer": "Yes"}, columns=("index", "question", "answer", "image"))
    with pytest.raises(DataError, match="Use: vlmtool eval yes_no"):
        kind(path)


def test_choices_are_sent_on_by_yes_no(write_table, question):
    with pytest.raises(DataError, match="Use: vlmtool eval multiple_choice"):
        YesNo(write_table({}))
    with pytest.raises(DataError, match="Use: vlmtool eval mmbench"):
        YesNo(write_table(*question))


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(DataError, match="a folder"):
        MultipleChoice(tmp_path)


@pytest.mark.parametrize("kind", [MMBench, MultipleChoice])
def test_all_extractors_side_by_side(write_table, kind, tmp_path, capsys):
    # By hand: "Answer: B" is B, A (the first capital of A to D) and B; "green it is" is B, none and none.
    rows = [{"index": "1", "answer": "B"}, {"index": "2", "answer": "B", "question": "What?"}]
    benchmark = kind(write_table(*rows), Options(extractor="all"))
    report(benchmark, {1: "Answer: B", 2: "green it is"}, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["extractor"] == "vlmeval" and metrics["scores"] == metrics["extractors"]["vlmeval"]
    way = "vanilla_all" if kind is MMBench else "score"
    found = metrics["extractors"]
    overall = {rule: (found[rule].get(way) or found[rule])["Overall"] for rule in found}
    assert overall == {"vlmeval": 1, "xtuner": 0, "strict": 0.5}
    table = capsys.readouterr().out.split("by extractor")[1]
    assert [name in table for name in ("vlmeval", "xtuner", "strict")] == [True] * 3
    row = next(line for line in table.splitlines() if f"Overall {way}" in line)
    assert [cell for cell in row.split() if cell.replace(".", "").isdigit()] == ["100.0", "0.0", "50.0"]


def test_unknown_extractor(write_table):
    with pytest.raises(UsageError, match="Use one of: vlmeval, xtuner, strict, all"):
        MultipleChoice(write_table({}), Options(extractor="mine"))
