"""LLaVA files of any content: no record is lost without a word, and none is changed."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.profiles import assert_readable, fuzz, outcome, run_command
from tests.fuzz.strategies import damaged, json_values, paths, spoiled, texts, to_bytes
from vlmtool.data.check import check_data
from vlmtool.data.check_record import Prompting, Source
from vlmtool.data.conversation import Conversation, Image
from vlmtool.data.formats.file_head import WrongFile
from vlmtool.data.formats.json_stream import read_blocks
from vlmtool.data.formats.llava import read_conversations
from vlmtool.data.templates.library import find_template
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.utils.errors import DataError, VlmtoolError

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
NEITHER = object()  # nested so deeply that json.loads gives up here and may not elsewhere, or the other way round
# What a check notes without taking the sample away.
NOTES = {
    "unread_key", "empty_answer", "cut_answer", "duplicate_id", "duplicate_record", "wrong_file", "file",
}  # fmt: skip


@st.composite
def sound_records(draw: DrawFn) -> dict[str, Any]:
    images = draw(st.lists(st.sampled_from(["a.png", "b/c.jpg", "gone.png"]), max_size=2))
    question = "".join(draw(texts).replace("<image>", "") + "<image>" for _ in images) + "?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": draw(texts)}]
    if draw(st.booleans()):
        turns.insert(0, {"from": "system", "value": draw(texts)})
    record: dict[str, Any] = {"id": draw(texts | st.integers()), "conversations": turns}
    return record | ({"image": images[0] if len(images) == 1 else images} if images else {})


OTHERS = json_values | paths | st.lists(paths, max_size=3) | sound_records()


@st.composite
def files(draw: DrawFn) -> bytes:
    """An array or JSON Lines, some of whose records are spoiled."""
    records = [draw(to_bytes(draw(spoiled(sound_records(), OTHERS)))) for _ in range(draw(st.integers(0, 4)))]
    start = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b" \n"]))
    if draw(st.booleans()):
        return start + b"[" + draw(st.sampled_from([b",", b",\n", b" , "])).join(records) + b"]"
    return start + draw(st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r"])).join(records)


def read_by_json(data: bytes) -> list[tuple[int, Any]] | None:
    """(line or number, value) of each record as json.loads reads the file; ValueError for a line; None for no file."""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return None
    if text.lstrip()[:1] == "[":
        array = _loads(text)
        return list(enumerate(array, start=1)) if isinstance(array, list) else None
    return [(number, _loads(line)) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return ValueError
    except RecursionError:
        return NEITHER


def id_of(value: Any, number: int) -> str:
    own = value.get("id") if isinstance(value, dict) else None
    return str(own) if isinstance(own, str | int | float) else str(number)


def images_of(record: dict[str, Any]) -> list[Any]:
    image = record.get("image")
    return [] if image is None or image in ("", []) else image if isinstance(image, list) else [image]


def is_sound(record: Any) -> bool:
    """What the documentation asks of a record."""
    if not isinstance(record, dict):
        return False
    images, turns = images_of(record), record.get("conversations")
    if not all(isinstance(path, str) and path[:1] != "/" and ".." not in path.split("/") for path in images):
        return False
    if not (isinstance(turns, list) and turns and all(isinstance(turn, dict) for turn in turns)):
        return False
    if not all(isinstance(turn.get("from"), str) and turn["from"] in ROLES for turn in turns):
        return False
    if not all(isinstance(turn.get("value"), str) and _is_unicode(turn["value"]) for turn in turns):
        return False
    return sum(turn["value"].count("<image>") for turn in turns if turn["from"] == "human") == len(images)


def _is_very_deep(data: bytes) -> bool:
    return b"[" * 500 in data or b'{"a":' * 500 in data


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def may_be_refused_whole(data: bytes) -> bool:
    """No record, another encoding, packed, or a first line that is no JSON though it begins an object."""
    marks = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"\xfe\xff")
    if read_by_json(data) == [] or data.startswith(marks) or b"\0" in data[:4]:
        return True
    first = data.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n")[0]
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return first.startswith(b"{")
    return False


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def as_record(conversation: Conversation) -> tuple[list[str], list[tuple[str, str]]]:
    """Images and turns, put together again."""
    turns = [
        (message.role, "".join("<image>" if isinstance(part, Image) else part for part in message.content))
        for message in conversation.messages
    ]
    return [str(image.source) for image in conversation.images], turns


def read_all(path: Path, image_position: str) -> list[tuple[str, str, Conversation | DataError]]:
    """(place, id, what came of it) of each record, in order.

    Raises:
        DataError: the file cannot be read on.
    """
    found: list[tuple[str, str, Conversation | DataError]] = []
    take = lambda *defect: found.append(defect)  # noqa: E731
    for conversation in read_conversations(path, image_position, broken=take):
        found.append((conversation.origin, conversation.id, conversation))
    return found


@example(data=b'[{"id": ' + b"1" * 5000 + b"}]", image_position="front")
@example(data=b"[" * 100_000, image_position="front")
@fuzz(45, data=damaged(files()), image_position=st.sampled_from(["as_written", "as_written", "front"]))
def test_every_record_is_yielded_whole_or_reported(folder, data, image_position):
    path = folder / "records.json"
    path.write_bytes(data)
    found = outcome(lambda: read_all(path, image_position))
    expected = read_by_json(data)
    if isinstance(found, WrongFile):
        assert may_be_refused_whole(data)
        return
    if isinstance(found, VlmtoolError) or expected is None:
        # An array is lost from where it breaks, and says so. Very deep values are read here and not there.
        assert isinstance(found, VlmtoolError) == (expected is None) or _is_very_deep(data)
        return
    assert len(found) == len(expected)
    for (origin, sample_id, result), (number, value) in zip(found, expected, strict=True):
        assert origin in (f"{path}:{number}", f"{path}: record {number}")
        if value is NEITHER:
            continue
        if isinstance(result, DataError):
            assert_readable(result)
            assert value is ValueError or not is_sound(value)
        else:
            assert is_sound(value)
            images, turns = as_record(result)
            assert images == images_of(value)
            if image_position == "as_written":
                assert turns == [(ROLES[turn["from"]], turn["value"]) for turn in value["conversations"]]
        assert sample_id == id_of(None if value is ValueError else value, number)


@fuzz(24, data=damaged(files()), block=st.integers(1, 64))
def test_where_blocks_end_changes_nothing(folder, data, block):
    path = folder / "blocks.json"
    path.write_bytes(data)
    whole, pieces = (outcome(lambda size=size: list(chain(*read_blocks(path, size)))) for size in (1 << 20, block))
    if not _is_utf8(data):  # JSON that breaks before the odd byte is told in its place
        assert isinstance(whole, DataError) and isinstance(pieces, DataError)
    elif not _is_very_deep(data):  # how deep is too deep depends on the caller's own depth
        assert repr(whole) == repr(pieces)


def four_tokens(image: Image) -> int:
    return 4


@pytest.fixture(scope="module")
def prompting(standins) -> Prompting:
    return Prompting(load_tokenizer(standins.llama), find_template("vicuna", None), four_tokens, 60)


@example(data=b"\x80", deep=False)
@fuzz(30, data=damaged(files()), deep=st.booleans())
def test_a_check_counts_every_record(folder, prompting, standins, data, deep):
    path = folder / "checked.json"
    path.write_bytes(data)
    report = check_data([Source(path, standins.images, prompting=prompting)], deep=deep, num_workers=1)
    expected = read_by_json(data)
    if "wrong_file" in report.counts:
        assert may_be_refused_whole(data) and not report.num_records
    elif "file" not in report.counts:
        assert expected is None or report.num_records == len(expected)
    lost = {finding.origin for finding in report.findings if finding.kind not in NOTES}
    assert report.num_samples == report.num_records - len(lost)
    assert len(report.lengths) == report.num_samples
    assert 0 <= report.supervised_share <= 1


@fuzz(6, data=damaged(files()))
def test_the_command_tells_what_is_wrong(folder, standins, data):
    path, recipe = folder / "command.json", folder / "recipe.py"
    path.write_bytes(data)
    sections = dict(
        llm=dict(path=str(standins.llama), template="vicuna", freeze=True),
        vision_encoder=dict(path=str(standins.clip)),
        projector=dict(),
        data=dict(path=str(path), image_folder=str(standins.images), max_length=60),
        schedule=dict(lr=1e-3, batch_size=1),
    )
    recipe.write_text("".join(f"{name} = {value!r}\n" for name, value in sections.items()))
    code, printed, _ = run_command("data", "check", str(recipe), "--all")
    count = len(read_by_json(data) or [])
    assert f"{count:,} record{'s' * (count != 1)}," in printed or "file broken" in printed or "no data file" in printed
    assert code == int("error" in printed or "No sample is left" in printed)
