"""Text of a growing answer."""

import pytest

from tests.chat.conftest import byte_tokenizer
from vlmtool.chat.answer import Answer


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def pieces(tokenizer, text: str, stop_words: tuple[str, ...] = (), max_tokens: int = 1000) -> list[str]:
    answer = Answer(tokenizer, max_tokens, {tokenizer.eos_token_id}, stop_words)
    given = []
    for token in [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]:
        answer.push(token)
        given.append(answer.new_piece())
        if answer.is_finished:
            break
    assert "".join(given) == answer.text
    return [piece for piece in given if piece]


def test_half_a_character_is_never_shown(tokenizer):
    assert pieces(tokenizer, "aß猫🐈b") == ["a", "ß", "猫", "🐈", "b"]


def test_an_answer_that_ends_within_a_character_shows_that(tokenizer):
    assert "".join(pieces(tokenizer, "a猫", max_tokens=2)) == "a\ufffd"


def test_surrounding_whitespace_is_not_shown(tokenizer):
    assert pieces(tokenizer, " \n a  b \n ") == ["a", "  b"]


def test_what_may_become_a_stop_word_is_held_back(tokenizer):
    assert pieces(tokenizer, "a##b###c", ("###",)) == ["a", "##b"]
    assert pieces(tokenizer, "a##", ("###",)) == ["a", "##"]
    assert pieces(tokenizer, "one two END three", ("three", "END")) == [*"one", " tw", "o"]
    assert pieces(tokenizer, "###", ("###", "")) == []


def test_the_longest_answer(tokenizer):
    assert "".join(pieces(tokenizer, "abcdef", max_tokens=3)) == "abc"
