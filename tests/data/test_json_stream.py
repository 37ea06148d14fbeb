"""Records as a stream: the same as `json.loads` gives, for any size of block, in little memory."""

import json
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmtool.data.formats import json_stream
from vlmtool.data.formats.json_stream import Record, num_blocks, read_blocks, read_records
from vlmtool.utils.errors import DataError, UsageError

TEXT = st.text(st.sampled_from('ab"\\/[]{},: \n\r\t\u2028é中🙂\ufeff'), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
DEFECTS = ("", "]", ",", "[", "{", '"', "\\", "1", "x", "\n", "tru", "-", "1.", "2e+", '"\\u12')


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("stream") / "data.json"


def values(path, block) -> list:
    return [record.value for records in read_blocks(path, block) for record in records]


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, max_size=5), st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
def test_any_block_gives_what_json_gives(file, entries, block, is_ascii, indent):
    file.write_text(json.dumps(entries, ensure_ascii=is_ascii, indent=indent), encoding="utf-8", newline="")
    assert values(file, block) == entries


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUES, max_size=3), st.sampled_from(DEFECTS), st.data())
def test_a_defect_anywhere_is_told_as_json_tells_it(file, entries, defect, data):
    whole = json.dumps(entries, ensure_ascii=False, indent=data.draw(st.sampled_from([None, 1])))
    place = data.draw(st.integers(1, len(whole)))
    text = whole[:place] + defect + whole[place + data.draw(st.integers(0, 2)) :]
    file.write_text(text, encoding="utf-8", newline="")
    try:
        expected = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        with pytest.raises(DataError) as caught:
            values(file, data.draw(st.integers(1, 40)))
        assert str(caught.value).startswith(f"{file}: not valid JSON: {error}, after record ")
    else:
        assert values(file, data.draw(st.integers(1, 40))) == expected


@pytest.mark.parametrize("numbers", ["[1, 23, 4.5, -6e+7, NaN, -Infinity, true]", "[]", " [ ] ", "[[], {}]"])
@pytest.mark.parametrize("block", range(1, 12))
def test_a_block_may_end_anywhere_in_a_number(file, numbers, block):
    file.write_text(numbers)
    assert repr(values(file, block)) == repr(json.loads(numbers))


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
def test_an_array_and_lines_give_the_same(file, newline, mark, block):
    entries = [{"a": "é\u2028"}, {"b": [1, "中"]}, "text"]
    file.write_bytes((mark + " " + json.dumps(entries, ensure_ascii=False, indent=2).replace("\n", newline)).encode())
    assert values(file, block) == entries
    lines = newline.join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    file.write_bytes((mark + lines).encode())
    assert values(file, block) == entries


def test_places_are_lines_or_records_from_one(file):
    file.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert list(read_records(file)) == [
        Record(f"{file}:1", 1, {"a": 1}, text='{"a": 1}'),
        Record(f"{file}:3", 3, {"a": 2}, text='{"a": 2}'),
    ]
    file.write_text('[{"a": 1}, {"a": 2}]')
    assert [record.origin for record in read_records(file)] == [f"{file}: record 1", f"{file}: record 2"]


def test_a_broken_line_comes_in_its_place(file):
    file.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    first, broken, third = read_records(file)
    assert (first.value, broken.value, third.value) == ({"a": 1}, None, {"a": 3})
    assert str(broken.error).startswith(f"{file}:2: not valid JSON: Expecting value: line 1 column 7")


def test_what_stands_before_a_break_is_given(file):
    file.write_text('[{"a": 1}, {"a": 2} {"a": 3}]')
    records = read_records(file)
    assert next(records).value == {"a": 1}
    with pytest.raises(DataError, match=r"Expecting ',' delimiter: line 1 column 21 \(char 20\), after record 1"):
        list(records)


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"a":' + '{"a":' * 100_000])
@pytest.mark.parametrize("block", [100, 1 << 20])
def test_what_is_nested_too_deep_is_a_data_error(file, text, block):
    file.write_text(text)
    with pytest.raises(DataError, match="not valid JSON"):
        values(file, block)


@pytest.mark.parametrize("block", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("content", "byte"),
    [(b'{"id": "\xff"}', 8), (b'\xef\xbb\xbf["\xff"]', 5), ('["é'.encode()[:-1], 2), ('["中"'.encode()[:3] + b'"]', 2)],
)
def test_what_is_no_utf8_is_told_with_its_byte(file, content, byte, block):
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"not UTF-8 at byte {byte}, in line 1;"):
        values(file, block)


def test_a_missing_file_is_known_before_work_starts(file):
    with pytest.raises(UsageError, match="no data file"):
        list(read_records(file.with_name("absent.json")))


@pytest.mark.parametrize("end", ['"]', "]"])
def test_a_long_record_is_tried_again_only_when_it_has_doubled(file, monkeypatch, end):
    tries = []
    decode = json_stream._decode
    monkeypatch.setattr(json_stream, "_decode", lambda text, place: tries.append(place) or decode(text, place))
    file.write_text('["' + "x" * 400_000 + end)
    if end == "]":
        with pytest.raises(DataError, match="Unterminated string"):
            values(file, 1000)
    else:
        assert values(file, 1000) == ["x" * 400_000]
    assert len(tries) < 12  # of 400 blocks


def test_records_after_a_long_one_come_with_their_blocks(file):
    short = '"' + "y" * 97 + '",'  # ten of them are a block: none is cut
    file.write_text('["' + "x" * 49_996 + '",' + short * 1000 + '"z"]')
    counts = [len(records) for records in read_blocks(file, 1000)]
    assert min(counts[70:-1]) > 0


@pytest.mark.parametrize("text", ['["', "[[", '{"a": "'])
def test_a_record_without_end_does_not_fill_the_memory(file, monkeypatch, text):
    monkeypatch.setattr(json_stream, "LONGEST", 1000)
    filler = "x" if text.endswith('"') else "1, "
    file.write_text(text + filler * 100_000)
    with pytest.raises(DataError, match="longer than|more than"):
        values(file, 100)


def test_memory_is_a_block_and_a_record(file):
    draw = random.Random(0)
    file.write_text(json.dumps([{"id": n, "text": draw.random()} for n in range(100_000)]))
    tracemalloc.start()
    count = sum(1 for _ in read_blocks(file, 10_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == num_blocks(file, 10_000)
    assert peak < 1_000_000  # of a file of four million
