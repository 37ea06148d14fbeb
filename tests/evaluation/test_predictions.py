"""Answers from files, and the store that keeps them."""

import json

import pytest
from openpyxl import Workbook

from vlmtool.evaluation.files.answer_store import Answer, AnswerStore
from vlmtool.evaluation.files.predictions import read_predictions
from vlmtool.utils.errors import DataError, UsageError


def test_json_lines_tsv_and_xlsx_say_the_same(tmp_path):
    wanted = {3: "A", 1_000_003: "=B1", 7: "nan", 8: ""}
    lines = tmp_path / "p.jsonl"
    lines.write_text(
        '{"index": 3, "prediction": "A"}\n\n{"index": "1000003", "prediction": "=B1", "more": 1}\n'
        '{"index": 7.0, "prediction": "nan"}\n{"index": 8, "prediction": null}'
    )
    table = tmp_path / "p.tsv"
    table.write_text("prediction\tindex\nA\t3\n=B1\t1000003\nnan\t7.0\n\t8\n")
    book = Workbook()
    book.active.append(["index", "question", "prediction"])
    for index, text in wanted.items():
        book.active.append([index, "q", text or None])
    book.active["C3"].data_type = "s"
    book.save(tmp_path / "p.xlsx")
    for path in (lines, table, tmp_path / "p.xlsx"):
        assert read_predictions(path) == wanted, path.suffix


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"index": 1, "prediction": "A"}\n{"index": 1,', r"p.jsonl:2: not JSON"),
        ('{"index": 1, "prediction": "A"}\n{"index": 1, "prediction": "B"}', r"p.jsonl:2: .* another answer on line 1"),
        ('{"index": 1}', r"p.jsonl:1: no 'prediction'"),
        ("[1]", r"p.jsonl:1: not a JSON object"),
        ('{"index": "x", "prediction": "A"}', r"p.jsonl:1: index 'x' is not a whole number"),
        ('{"index": -1, "prediction": "A"}', r"p.jsonl:1: index '-1'"),
        ('{"index": true, "prediction": "A"}', r"p.jsonl:1: index 'True'"),
        ('{"index": 1, "prediction": ["A"]}', r"p.jsonl:1: 'prediction' is list"),
    ],
)  # fmt: skip
def test_broken_lines_are_named(tmp_path, text, message):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def test_the_same_answer_twice_is_one_answer(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"index": 1, "prediction": "A"}\n' * 2)
    assert read_predictions(path) == {1: "A"}


def test_other_kinds_of_file(tmp_path):
    with pytest.raises(UsageError, match="unknown kind of file"):
        read_predictions(tmp_path / "p.csv")
    (tmp_path / "p.xlsx").write_text("no workbook")
    with pytest.raises(DataError, match="not a readable xlsx"):
        read_predictions(tmp_path / "p.xlsx")


def test_lone_surrogates_can_be_written_again(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"index": 1, "prediction": "\\ud83d A"}')
    AnswerStore(tmp_path).replace([Answer(index, text) for index, text in read_predictions(path).items()])
    assert read_predictions(tmp_path / "predictions.jsonl") == {1: "? A"}


def test_store_merges_what_a_killed_run_of_several_processes_left(tmp_path):
    store = AnswerStore(tmp_path)
    store.append(store.path, [Answer(1, "A", "k1")])
    store.append(store.rank_path(0), [Answer(2, "B", "k2")])
    store.append(store.rank_path(1), [Answer(3, "C", "k3"), Answer(1, "A", "k1")])
    with open(store.rank_path(1), "a") as handle:
        handle.write('{"index": 4, "predi')  # killed while writing
    keys = {4: "k4", 3: "k3", 2: "k2", 1: "k1"}
    assert store.settle(keys) == store.settled(keys) == {3: "C", 2: "B", 1: "A"}
    assert [line.count('"index"') for line in store.path.read_text().splitlines()] == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_answers_of_another_model_are_kept_aside_and_found_again(tmp_path):
    store = AnswerStore(tmp_path)
    store.append(store.path, [Answer(1, "A", "first"), Answer(2, "B", "first")])
    assert store.others({1: "second", 2: "second"}) == 2 and store.others({1: "first", 2: "first"}) == 0
    assert store.settle({1: "second", 2: "second"}) == {}
    assert store.others({1: "second", 2: "second"}) == 0
    store.append(store.path, [Answer(1, "C", "second")])
    assert store.settle({1: "first", 2: "first"}) == {1: "A", 2: "B"}
    assert store.settle({1: "second", 2: "second"}) == {1: "C"}


def test_the_record_says_which_answers_were_chosen(tmp_path):
    store = AnswerStore(tmp_path)
    store.append(store.path, [Answer(1, "A", "k1", "likelihood"), Answer(2, "B", "k2")])
    assert store.settle({1: "k1", 2: "k2"}) == {1: "A", 2: "B"}
    entries = [json.loads(line) for line in store.path.read_text().splitlines()]
    assert [entry.get("chosen_by") for entry in entries] == ["likelihood", None]


def test_chosen_answers_are_not_taken_for_written_ones_nor_the_other_way_round(tmp_path):
    path = tmp_path / "p.jsonl"
    chosen, written = (
        '{"index": 1, "prediction": "A", "chosen_by": "likelihood"}\n',
        '{"index": 2, "prediction": "B"}\n',
    )
    path.write_text(written + chosen)
    with pytest.raises(DataError, match="p.jsonl:2: .* chosen by likelihood. Add --score likelihood"):
        read_predictions(path)
    path.write_text(chosen + written)
    with pytest.raises(DataError, match="p.jsonl:2: .* Leave --score likelihood out"):
        read_predictions(path, chosen_by="likelihood")
    path.write_text(chosen)
    assert read_predictions(path, chosen_by="likelihood") == {1: "A"}
