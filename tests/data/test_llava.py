"""LLaVA records: what is read, what is refused, and where the error points."""

import json

import pytest

from vlmtool.data.conversation import Image, Message, assistant, user
from vlmtool.data.formats.llava import RecordError, parse_record, read_conversations, read_records
from vlmtool.utils.errors import DataError, UsageError


def record(*values: str, **fields) -> dict:
    """A record of human and gpt turns in turn."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]
    return {**fields, "conversations": turns}


def parse(entry, **options):
    return parse_record(entry, "f.jsonl:7", "7", **options)


def test_images_stand_where_their_tags_stand():
    conversation = parse(record("A <image>\nB<image>", "C", id="s", image=["a.png", "b.png"]))
    assert conversation.messages == (user("A ", Image("a.png"), "\nB", Image("b.png")), assistant("C"))
    assert (conversation.id, conversation.origin) == ("s", "f.jsonl:7")


def test_images_are_shared_out_over_the_turns():
    conversation = parse(record("<image>1", "x", "2<image>", "y", image=["a.png", "b.png"]))
    assert [message.images for message in conversation.messages if message.role == "user"] == [
        [Image("a.png")],
        [Image("b.png")],
    ]


def test_a_tag_in_an_answer_costs_no_image():
    conversation = parse(record("<image>?", "It says <image>.", image="a.png"))
    assert conversation.images == [Image("a.png")]
    assert conversation.messages[1] == assistant("It says <image>.")


@pytest.mark.parametrize("image", [None, "", []])
def test_no_image_is_text_only(image):
    assert parse(record("Q", "A", image=image)).images == []


def test_a_system_turn_is_kept():
    entry = {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Q"}]}
    assert parse(entry).messages[0] == Message("system", ("Be brief.",))


@pytest.mark.parametrize(
    ("text", "images", "expected"),
    [
        ("What?\n<image>", ["a.png"], (Image("a.png"), "\nWhat?")),
        ("A<image>B <image>", ["a.png", "b.png"], (Image("a.png"), "\n", Image("b.png"), "\nAB")),
        ("<image>", ["a.png"], (Image("a.png"),)),  # LLaVA's pretraining: no line end after a lone tag
        ("What?", [], ("What?",)),
    ],
)
def test_front_moves_the_tags_before_the_text(text, images, expected):
    conversation = parse(record(text, "x", image=images), image_position="front")
    assert conversation.messages[0].content == expected


@pytest.mark.parametrize(
    ("entry", "expected"), [({"id": 12}, "12"), ({"id": "a"}, "a"), ({}, "7"), ({"id": None}, "7")]
)
def test_a_missing_id_is_the_line_number(entry, expected):
    assert parse({**record("Q", "A"), **entry}).id == expected


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.png", "a/../../b.png"])
def test_a_path_out_of_the_image_folder_is_refused(path):
    with pytest.raises(RecordError, match="absolute or leaves the image folder") as caught:
        parse(record("<image>", "A", image=path))
    assert caught.value.kind == "outside"


@pytest.mark.parametrize(
    ("text", "images", "counts"),
    [("<image><image>", "a.png", "2 <image> tags but 1 images"), ("Q", "a.png", "0 <image> tags but 1 images"),
     ("<image>", None, "1 <image> tags but 0 images")],
)  # fmt: skip
def test_tags_and_images_must_be_as_many(text, images, counts):
    with pytest.raises(RecordError, match=f"f.jsonl:7: sample 's' has {counts}") as caught:
        parse(record(text, "<image>", id="s", image=images))
    assert caught.value.kind == "tags"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "a record is an object"),
        ({}, "'conversations' must be a list"),
        ({"conversations": []}, "at least one turn"),
        ({"conversations": ["hello"]}, "a turn is"),
        ({"conversations": [{"from": "human"}]}, "a turn is"),
        ({"conversations": [{"from": "human", "value": 3}]}, "a turn is"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "not 'robot'"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, "a turn is from"),
        ({"conversations": [{"from": "human", "value": "\ud800"}]}, "lone surrogate"),
        ({"image": 3, "conversations": [{"from": "human", "value": "<image>"}]}, "'image' must be a path"),
        ({"image": [["a"]], "conversations": [{"from": "human", "value": "<image>"}]}, "'image' must be a path"),
    ],
)
def test_a_record_of_the_wrong_form_is_refused_with_its_place(entry, message):
    with pytest.raises(RecordError, match="f.jsonl:7.*" + message) as caught:
        parse(entry)
    assert caught.value.kind == "form"


RECORDS = [record("Q", "A", id="one"), record("Q2", "A2\u2028 é", id="two")]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
def test_an_array_and_lines_give_the_same(tmp_path, newline, mark):
    array, lines = tmp_path / "a.json", tmp_path / "b.jsonl"
    array.write_text(mark + " " + json.dumps(RECORDS, ensure_ascii=False), encoding="utf-8")
    text = newline.join(json.dumps(entry, ensure_ascii=False) for entry in RECORDS)
    lines.write_bytes((mark + text).encode())
    from_array, from_lines = ([(c.id, c.messages) for c in read_conversations(path)] for path in (array, lines))
    assert from_array == from_lines
    assert [name for name, _ in from_lines] == ["one", "two"]


def test_places_are_lines_or_records_from_one(write_records, tmp_path):
    lines = write_records([RECORDS[0], "", RECORDS[1]])
    assert [origin for origin, _, _ in read_records(lines)] == [f"{lines}:1", f"{lines}:3"]
    array = tmp_path / "a.json"
    array.write_text(json.dumps(RECORDS))
    assert [origin for origin, _, _ in read_records(array)] == [f"{array}: record 1", f"{array}: record 2"]


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": ', "[" * 100_000, '[{"a": 1}', '{"a":' * 100_000])
def test_what_is_no_json_is_a_data_error(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match="not valid JSON"):
        list(read_records(path))


def test_what_is_no_utf8_is_a_data_error(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'{"id": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8 at byte 8"):
        list(read_records(path))


def test_a_missing_file_is_known_before_work_starts(tmp_path):
    with pytest.raises(UsageError, match="no data file"):
        list(read_conversations(tmp_path / "x.json"))
