"""LLaVA records: what is read, what is refused, and where the error points."""

import json

import pytest

from vlmtool.data.conversation import Image, Message, assistant, user
from vlmtool.data.formats.llava import RecordError, image_paths, parse_record, read_conversations
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


@pytest.mark.parametrize("path", ["https://example.org/a.jpg", "file:///etc/passwd", "s3://bucket/a.jpg"])
def test_an_address_in_a_record_is_told_and_not_fetched(path):
    with pytest.raises(RecordError, match="is an address") as caught:
        parse(record("<image>", "A", image=path))
    assert caught.value.kind == "outside"


@pytest.mark.parametrize(
    ("text", "images", "counts"),
    [("<image><image>", "a.png", "2 <image> tags but 1 image"), ("Q", "a.png", "0 <image> tags but 1 image"),
     ("<image>", None, "1 <image> tag but 0 images")],
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


def test_conversations_of_an_array_and_of_lines_are_the_same(tmp_path):
    records = [record("Q", "A", id="one"), record("Q2", "A2\u2028 é", id="two")]
    array, lines = tmp_path / "a.json", tmp_path / "b.jsonl"
    array.write_text(json.dumps(records))
    lines.write_text("\n".join(map(json.dumps, records)))
    from_array, from_lines = ([(c.id, c.messages) for c in read_conversations(path)] for path in (array, lines))
    assert from_array == from_lines
    assert [name for name, _ in from_lines] == ["one", "two"]


def test_the_first_broken_record_raises(write_records):
    conversations = read_conversations(write_records([record("Q", "A"), "{", record("Q", "A")]))
    assert next(conversations).id == "1"
    with pytest.raises(DataError, match=r"data.jsonl:2: not valid JSON"):
        next(conversations)


def test_broken_records_are_left_out_where_somebody_takes_them(write_records):
    path = write_records(
        [record("Q", "A"), "{", {"id": "odd"}, [], record("<image>", "A", id="tags"), record("Q", "A")]
    )
    taken = []
    conversations = read_conversations(path, broken=lambda *defect: taken.append(defect))
    assert [conversation.id for conversation in conversations] == ["1", "6"]
    assert [(origin, name) for origin, name, _ in taken] == [
        (f"{path}:2", "2"), (f"{path}:3", "odd"), (f"{path}:4", "4"), (f"{path}:5", "tags"),
    ]  # fmt: skip
    assert all(isinstance(error, DataError) for _, _, error in taken)


def test_a_broken_array_cannot_be_skipped_past(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([record("Q", "A"), record("Q", "A")])[:-9])
    taken = []
    with pytest.raises(DataError, match="not valid JSON"):
        list(read_conversations(path, broken=lambda *defect: taken.append(defect)))
    assert not taken


def test_a_missing_file_is_known_before_work_starts(tmp_path):
    with pytest.raises(UsageError, match="no data file"):
        list(read_conversations(tmp_path / "x.json"))


def test_image_paths_are_given_whatever_the_record_is():
    assert image_paths({"image": ["a.png", 3, "../b.png"]}) == ["a.png", "../b.png"]
    assert image_paths({"image": "a.png"}) == ["a.png"]
    assert [image_paths(value) for value in (None, [], "text", {}, {"image": {}}, {"image": 3})] == [[]] * 6
