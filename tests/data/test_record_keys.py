"""Which keys are taken for a misspelt field, and which may stand beside the fields."""

import pytest

from vlmtool.data.formats.llava import RecordError, parse_record
from vlmtool.data.formats.record_keys import unread_keys

# As they stand in published LLaVA-like data sets.
IN_USE = (
    "model", "category", "width", "height", "height_list", "width_list", "source", "data_source", "dataset", "idx",
    "uid", "_id", "image_id", "imageid", "image_size", "image_url", "image_width", "image_source", "num_images",
    "question_id", "conversation_id", "task", "type", "text", "caption", "url", "url_caption", "bbox", "metadata",
    "sample_id", "choice_list", "language", "message", "messages", "page", "system", "tools", "score", "split",
)  # fmt: skip


def told(record: dict) -> list[str]:
    return list(unread_keys(record))


@pytest.mark.parametrize(
    "key", ["Image", "IMAGE", " image", "images", "img", "imgs", "image_path", "imgae", "iamge", "imag", "picture"]
)
def test_what_was_meant_as_the_image(key):
    for value in ("a.png", ["a.png"], {"path": "a.png"}):
        assert told({key: value, "conversations": []}) == [f"'{key}' is not read; did you mean 'image'?"]
    assert told({key: value, "image": "b.png"})  # beside another picture it is lost too
    assert not told({key: "b.png", "image": "b.png"}) and not told({key: 3}) and not told({key: None})


@pytest.mark.parametrize("key", IN_USE)
def test_keys_in_use_are_not_told(key):
    assert not told({"id": "a", "image": "a.png", key: "x", "conversations": []})
    assert not told({key: ["x"], "conversations": []})


def test_an_id_in_capitals_is_told_where_there_is_none():
    assert told({"ID": 3}) == ["'ID' is not read; did you mean 'id'?"]
    assert not told({"ID": 3, "id": 4})


def test_a_long_key_is_cut():
    [said] = told({"image" + " " * 5000: "a.png"})
    assert len(said) < 160


def test_turns_under_another_key_are_named_in_the_error():
    turns = [{"from": "human", "value": "Q"}]
    with pytest.raises(RecordError, match=r"at least one turn\. Did you mean 'conversations' by 'conversation'\?"):
        parse_record({"conversation": turns}, "f:1", "1")
    with pytest.raises(RecordError, match=r"at least one turn\.$"):
        parse_record({"conversation_id": "7", "messages": turns}, "f:1", "1")
