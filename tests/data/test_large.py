"""A large file through its table gives the very samples, counts and complaints of a small one read whole."""

import json
import multiprocessing
import pickle
from functools import partial

import pytest
import torch

from vlmtool.data.dataset import ConversationDataset
from vlmtool.data.formats.json_stream import read_records
from vlmtool.data.formats.llava import read_conversations
from vlmtool.data.formats.record_table import RecordTable, RowParser, read_arrow, written
from vlmtool.data.large import LargeDataset, Looker, TableConversations, count_samples, write_counts
from vlmtool.data.render import Renderer
from vlmtool.utils.errors import DataError
from vlmtool.utils.files import one_at_a_time

LONG = "A red circle above a blue square. " * 5


def turns(question="<image>\nWhat?", answer="Yes") -> list[dict]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


RECORDS = [
    {"id": "first", "image": "a.png", "conversations": turns(answer="It is \u00e9t\u00e9 [red]round[/red].")},
    {"id": "cut", "conversations": turns("Tell me", LONG * 3)},
    {"conversations": turns(LONG * 3, "Never read")},
    {"id": 7, "image": ["a.png", "b.png"], "conversations": turns("<image> and <image>?")},
]
BAD = [
    {"id": "form", "conversations": "none"},
    {"id": "gone", "image": "gone.png", "conversations": turns()},
    {"id": "torn", "image": "torn.png", "conversations": turns()},
]


@pytest.fixture
def make(tmp_path, renderer, transform, picture):
    """`make(records, "large" or "whole", bad)` → the data set of a file with these records."""
    picture("a.png"), picture("b.png")
    (picture("torn.png")).write_bytes(b"no picture")

    def dataset(records, kind: str, bad=None, lines=False) -> ConversationDataset:
        path = tmp_path / ("data.jsonl" if lines else "data.json")
        text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
        path.write_text(text)
        own = Renderer(renderer("vicuna").tokenizer, renderer("vicuna").template, transform.num_tokens)
        if kind == "whole":
            note = None if bad is None else lambda origin, name, error: bad.append((origin, name, str(error)))
            return ConversationDataset(list(read_conversations(path, "front", note)), own, transform, 90, bad and [])
        table = tmp_path / "tables" / f"{hash(text)}.records"
        counts = table.with_suffix(".counts")
        if not counts.is_file():
            make_renderer = partial(Renderer, own.tokenizer, own.template, own.num_image_tokens)
            looker = partial(Looker, RowParser(path), "front", make_renderer, transform.image_folder, 90)
            blocks = RecordTable(table, path).blocks() if table.is_file() else written(path, table)
            write_counts(count_samples(blocks, looker, 1, "Counting"), counts)
        samples = TableConversations(RecordTable(table, path), "front")
        return LargeDataset(samples, read_arrow(counts), own, transform, 90, bad)

    return dataset


def same(first, second) -> bool:
    pixels = (first.pixels is None) == (second.pixels is None)
    if pixels and first.pixels is not None:
        pixels = torch.equal(first.pixels.values, second.pixels.values)
    return pixels and first.id == second.id and torch.equal(first.input_ids, second.input_ids)


@pytest.mark.parametrize("lines", [False, True])
def test_samples_lengths_and_counts_are_those_of_the_file_read_whole(make, lines):
    whole = make(RECORDS, "whole", lines=lines)
    expected = whole.scan()
    assert expected.cut_answers == ["cut"] and expected.unsupervised == ["3"] and expected.num_samples == 3
    for _ in range(2):  # counted, and from the counts that are kept
        large = make(RECORDS, "large", lines=lines)
        assert large.scan() == expected and large.lengths == whole.lengths
        assert all(same(large[number], whole[number]) for number in range(3))
        assert [one.origin for one in large.conversations] == [one.origin for one in whole.conversations]
        assert large.count_among({whole.conversations[2].origin}) == 1


def test_the_second_time_nothing_is_rendered(make, monkeypatch):
    make(RECORDS, "large").scan()
    monkeypatch.setattr(Renderer, "sample", lambda *_: pytest.fail("a sample was rendered"))
    assert make(RECORDS, "large").scan().num_samples == 3


def test_bad_samples_are_left_out_and_looked_at_again(make, picture):
    for _ in range(2):
        large = make([*RECORDS, *BAD], "large", bad=[])
        assert large.scan().num_samples == 3
        assert [(one.id, one.origin.rpartition(" ")[2]) for one in large.bad] == [
            ("form", "5"),
            ("gone", "6"),
            ("torn", "7"),
        ]
        assert "image 'gone.png' is missing" in large.bad[1].reason and "torn.png" in large.bad[2].reason
    picture("gone.png"), picture("torn.png")
    large = make([*RECORDS, *BAD], "large", bad=[])
    assert large.scan().num_samples == 5 and [one.id for one in large.bad] == ["form"]
    assert large[3].id == "gone"


@pytest.mark.parametrize("number", range(3))
def test_without_skipping_each_is_an_error_with_its_place(make, number):
    told = []
    for kind in ("whole", "large"):
        with pytest.raises(DataError) as error:
            make([*RECORDS, BAD[number]], kind).scan()
        told.append(str(error.value))
    assert told[0] == told[1]


def test_broken_lines_are_told_with_their_place_wherever_the_file_lies(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n{broken\n" + json.dumps(RECORDS[1]))
    assert sum(map(len, written(path, tmp_path / "table"))) == 3
    moved = path.rename(tmp_path / "moved.jsonl")
    table, expected = RecordTable(tmp_path / "table", moved), list(read_records(moved))
    assert [(one.origin, one.number, one.value, str(one.error)) for one in table] == [
        (one.origin, one.number, one.value, str(one.error)) for one in expected
    ]
    assert table[1].error is not None and [one.number for one in table[1:]] == [2, 3]


def test_a_broken_array_leaves_no_table(tmp_path):
    path, table = tmp_path / "data.json", tmp_path / "tables" / "table"
    path.write_text(json.dumps(RECORDS)[:-20])
    with pytest.raises(DataError, match="after record 3"):
        list(written(path, table))
    path.write_text(" []")
    with pytest.raises(DataError, match="the array is empty"):
        list(written(path, table))
    assert not list(table.parent.glob("*"))


def test_a_table_goes_to_another_process_by_name(make):
    table = make(RECORDS, "large").samples.table
    assert len(pickle.dumps(table)) < 1000 and list(pickle.loads(pickle.dumps(table))) == list(table)


def _hold(path, entered, leave):
    with one_at_a_time(path):
        entered.set()
        leave.wait(60)


def test_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("forkserver")
    hold = partial(context.Process, target=_hold)
    events = [(context.Event(), context.Event()) for _ in range(2)]
    processes = [hold(args=(tmp_path / "file", *pair)) for pair in events]
    processes[0].start()
    assert events[0][0].wait(60)
    processes[1].start()
    assert not events[1][0].wait(2), "both are in"
    processes[0].kill()  # the lock ends with its process
    assert events[1][0].wait(60)
    events[1][1].set()
    for process in processes:
        process.join(60)
