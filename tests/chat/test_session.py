"""A conversation: the cache between turns changes nothing but the work."""

import pytest
from PIL import Image as PILImage

from vlmtool.chat.decoder import ImagePosition, PromptCache
from vlmtool.chat.generator import GenerationSettings, Request
from vlmtool.chat.session import ChatSession
from vlmtool.data.conversation import user
from vlmtool.utils.errors import DataError

SETTINGS = GenerationSettings(max_new_tokens=12)


@pytest.fixture
def session(generator) -> ChatSession:
    return ChatSession(generator, SETTINGS, system="Be brief.")


def fresh(session: ChatSession, turns: int) -> str:
    """The answer of turn `turns`, computed anew from the history before it."""
    end = 1 + 2 * turns - 1  # after the system text
    return session.generator.generate([Request(tuple(session.messages[:end]))], SETTINGS)[0]


def test_turns_over_the_cache_answer_like_fresh_ones(session, pictures):
    session.add_image(pictures[0])
    answers = ["".join(session.ask("What is it?"))]
    answers.append("".join(session.ask("And its colour?")))
    session.add_image(pictures[1])
    session.add_image(pictures[2])
    answers.append("".join(session.ask("And these two?")))
    assert answers == [fresh(session, turn) for turn in (1, 2, 3)]
    assert len(set(answers)) == 3


def test_a_turn_computes_only_what_it_adds(session, pictures):
    """The history's beginning is not run again, nor its image encoded again.

    The answer itself may be run again: random bytes that are no UTF-8 come back as other tokens.
    """
    encoded = []
    session.generator.model.vision_encoder.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
    session.add_image(pictures[0])
    list(session.ask("What is it? A long question, to be read once only."))
    first = session.cache.num_prefilled
    assert first == session.generator.prompt_length(Request(tuple(session.messages[:2])))
    list(session.ask("Why?"))
    added = session.generator.prompt_length(Request(tuple(session.messages[:4]))) - first
    assert session.cache.num_prefilled <= added
    assert encoded == [1]


def test_an_answer_that_is_left_stays_as_far_as_it_came(session):
    pieces = session.ask("What?")
    first = next(pieces)
    pieces.close()
    assert session.messages[-1].content == (first,)
    assert "".join(session.ask("Go on")) == fresh(session, 2)


def test_an_interrupt_in_the_middle_of_a_layer_spoils_nothing(session):
    llm = session.generator.model.llm
    list(session.ask("One"))

    def interrupt(*_: object) -> None:
        handle.remove()
        raise KeyboardInterrupt

    handle = llm.model.layers[1].register_forward_pre_hook(interrupt)
    before = list(session.messages)
    with pytest.raises(KeyboardInterrupt):
        list(session.ask("Two"))
    assert session.messages == before
    assert "".join(session.ask("Three")) == fresh(session, 2)


def test_a_broken_image_leaves_the_conversation_as_it_was(session, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for name in ("broken.png", "missing.png"):
        with pytest.raises(DataError, match=name):
            session.add_image(str(tmp_path / name))
    list(session.ask("What?"))
    assert session.messages[1].images == []


def test_reset_forgets_all_but_the_system_text(session, pictures):
    session.add_image(pictures[0])
    first = "".join(session.ask("What?"))
    session.add_image(pictures[1])
    session.reset()
    assert [message.role for message in session.messages] == ["system"]
    assert "".join(session.ask("What?")) != first
    assert session.messages[1].images == []


def test_an_image_that_changed_on_disk_is_computed_again(session, pictures):
    session.add_image(pictures[0])
    list(session.ask("What?"))
    PILImage.new("RGB", (40, 30), (1, 2, 250)).save(pictures[0])
    assert "".join(session.ask("And now?")) == fresh(session, 2)
    assert session.cache.num_prefilled > 10


def test_an_image_is_reused_whole_or_not_at_all():
    cache = PromptCache()
    image = [ImagePosition("a", number) for number in range(4)]
    cache.keys[:] = [1, *image, 2, 3]
    assert cache.reuse([1, *image, 2, 9]) == 6
    assert cache.reuse([1, *image]) == 1  # the last token is always computed
    cache.keys[:] = [1, *image, 2]
    other = [ImagePosition("b", number) for number in range(4)]
    assert cache.reuse([1, *other, 2]) == 1
    assert cache.reuse([7, 8]) == 0


def test_a_prompt_is_the_same_in_a_session_and_in_a_request(session, pictures):
    session.add_image(pictures[0])
    list(session.ask("What?"))
    assert session.messages[1] == user(session.messages[1].content[0], "\n", "What?")


def test_a_question_that_is_no_text_is_told_and_changes_nothing(session):
    before = list(session.messages)
    with pytest.raises(DataError, match="is not UTF-8 text"):
        list(session.ask(b"Stra\xdfe?".decode("utf-8", "surrogateescape")))
    assert session.messages == before and list(session.ask("Street?"))
