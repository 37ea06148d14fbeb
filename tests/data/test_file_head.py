"""What a file's first bytes tell: other encodings, packed files, one object over many lines, and only these."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest

from vlmtool.data.formats.file_head import WrongFile
from vlmtool.data.formats.json_stream import read_records
from vlmtool.data.formats.llava import read_conversations
from vlmtool.utils.errors import DataError

TURNS = [{"from": "human", "value": "Où?"}, {"from": "gpt", "value": "Là."}]
RECORDS = [{"id": f"{n}", "conversations": TURNS} for n in range(3)]
ARRAY = json.dumps(RECORDS, ensure_ascii=False)


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "data.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("encoding", ["UTF-16", "UTF-16-LE", "UTF-16-BE", "UTF-32"])
@pytest.mark.parametrize("text", [ARRAY, json.dumps(RECORDS[0])])
def test_wide_characters_are_named(tmp_path, encoding, text):
    path = written(tmp_path, text.encode(encoding))
    with pytest.raises(WrongFile, match=f"the file is {encoding[:6]}.*\n.*iconv -f {encoding[:6]}"):
        list(read_records(path))


@pytest.mark.parametrize(("pack", "name"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")])
def test_packed_files_are_named(tmp_path, pack, name):
    path = written(tmp_path, pack(ARRAY.encode()))
    with pytest.raises(WrongFile, match=rf"packed \({name}\)\.\nUnpack it: {name} -dc"):
        list(read_records(path))


@pytest.mark.parametrize("size", [0, 200_000])
def test_latin_1_is_told_with_its_line(tmp_path, size):
    lines = ["{}"] * 3 + [json.dumps("x" * size), '"Là"']
    path = written(tmp_path, "\n".join(lines).encode("latin-1"))
    with pytest.raises(DataError, match=rf"not UTF-8 at byte {size + 9 + 3 + 2}, in line 5; is it Latin-1"):
        list(read_records(path))


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", " \n", "\ufeff"])
@pytest.mark.parametrize("value", [RECORDS[0], {"data": RECORDS}, {"data": RECORDS * 2000}])
@pytest.mark.parametrize("rest", ["", "\n"])
def test_one_object_over_many_lines_is_one_error(tmp_path, value, start, line_end, rest):
    text = start + json.dumps(value, indent=1) + rest
    path = written(tmp_path, text.replace("\n", line_end))
    with pytest.raises(WrongFile, match=r"one object over many lines\.\nGive an array"):
        list(read_records(path))


def test_an_object_that_opens_a_list_of_one_record_a_line_is_one(tmp_path):
    lines = ",\n".join(map(json.dumps, RECORDS * 1000))
    path = written(tmp_path, '{"data": [\n' + lines + "\n]}")
    with pytest.raises(WrongFile, match="one object over many lines"):
        list(read_records(path))


@pytest.mark.parametrize("padding", range(0, 40, 3))
def test_the_head_may_end_anywhere_in_the_object(tmp_path, padding):
    lines = ",\n".join(['[1, true, 12345, {"a": -1.5e+7}]'] * 3000)
    path = written(tmp_path, '{"data": [\n[' + " " * padding + "],\n" + lines + "]}")
    with pytest.raises(WrongFile, match="one object over many lines"):
        list(read_records(path))


def test_a_broken_pretty_printed_object_is_one_error_too(tmp_path):
    path = written(tmp_path, json.dumps(RECORDS[0], indent=1).replace("]", ",]"))
    with pytest.raises(WrongFile, match="one object over many lines"):
        list(read_records(path))


@pytest.mark.parametrize("first", ["{", '{"id": "a", "conversations": [', '{"id": "a', '{"id": "a", "image":', "{}}"])
@pytest.mark.parametrize("times", [1, 2000])
def test_a_broken_first_line_of_json_lines_is_a_broken_line(tmp_path, first, times):
    path = written(tmp_path, "\n".join([first, *map(json.dumps, RECORDS * times)]))
    broken, *others = read_records(path)
    assert broken.error is not None and [record.value for record in others] == RECORDS * times


@pytest.mark.parametrize("first", ["{", '{"id": "a"', '{"id": "a", "conversations": [', '{"id": "a",'])
@pytest.mark.parametrize("second", ['"a text"', '"id": "b", "image": "b.jpg"}', '"id": "b"', '"cut'])
@pytest.mark.parametrize("times", [1, 2000])
def test_a_second_line_that_begins_with_a_quote_makes_no_object_of_json_lines(tmp_path, first, second, times):
    path = written(tmp_path, "\n".join([first, second, *map(json.dumps, RECORDS * times)]))
    found = [record for record in read_records(path) if record.error is None]
    assert [record.value for record in found if record.value != "a text"] == RECORDS * times


def test_objects_over_many_lines_one_after_the_other_are_told(tmp_path):
    path = written(tmp_path, "\n".join(json.dumps(record, indent=1) for record in RECORDS))
    with pytest.raises(WrongFile, match="one object over many lines"):
        list(read_records(path))


def test_an_object_around_the_list_on_one_line_names_the_list(tmp_path):
    path = written(tmp_path, json.dumps({"version": 1, "data": RECORDS}))
    with pytest.raises(DataError, match="Records stand in its list 'data': give that list alone"):
        list(read_conversations(path))


@pytest.mark.parametrize("content", ["", "\n", "[]"])
def test_a_training_is_told_of_an_empty_file(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(WrongFile, match=f"{path}: no record: ") as caught:
        list(read_conversations(path, broken=print))
    assert len(str(caught.value).splitlines()) == 2
