"""A preview shows what the model reads, not what the file says."""

import pytest

from vlmtool.data.conversation import Conversation, Image, Message, assistant, user
from vlmtool.data.preview import Piece, Preview, preview_sample
from vlmtool.data.render import Renderer
from vlmtool.data.templates.library import find_template
from vlmtool.utils.errors import DataError


@pytest.fixture
def preview(tokenizer, transform):
    def run(*turns: Message, max_length: int = 1000) -> Preview:
        renderer = Renderer(tokenizer, find_template("vicuna", None), transform.num_tokens)
        return preview_sample(Conversation("s", turns, "f:1"), renderer, transform, max_length)

    return run


def test_text_answers_and_images_are_told_apart(preview, picture):
    picture("a.png", 96, 72)
    shown = preview(user(Image("a.png"), "\nWhat é?"), assistant("It says <image> 中."), user("And?"), assistant("Yes"))
    assert shown.pieces == (
        Piece("prompt", "<s>USER: "),
        Piece("image", "[image 4 tokens: a.png 96×72]"),
        Piece("prompt", "\nWhat é? ASSISTANT:"),
        Piece("answer", " It says <image> 中.</s>"),
        Piece("prompt", "USER: And? ASSISTANT:"),
        Piece("answer", " Yes</s>"),
    )


def test_neighbouring_images_are_two(preview, picture):
    picture("a.png", 5, 6), picture("b.png", 7, 8)
    shown = preview(user(Image("a.png"), Image("b.png")), assistant("Yes"))
    images = [piece.text for piece in shown.pieces if piece.kind == "image"]
    assert images == ["[image 4 tokens: a.png 5×6]", "[image 4 tokens: b.png 7×8]"]


def test_counts_are_those_of_the_sample(preview, tokenizer, renderer, picture):
    picture("a.png")
    turns = (user(Image("a.png"), "What?"), assistant("Yes"))
    rendered = renderer("vicuna").sample(Conversation("s", turns))
    shown = preview(*turns)
    assert (shown.id, shown.origin, shown.num_cut) == ("s", "f:1", 0)
    assert (shown.num_tokens, shown.num_supervised) == (len(rendered.input_ids), rendered.num_supervised)


def test_what_is_cut_is_not_shown(preview):
    whole = preview(user("What?"), assistant("A red circle above a blue square."))
    cut = preview(user("What?"), assistant("A red circle above a blue square."), max_length=whole.num_tokens - 3)
    assert (cut.num_tokens, cut.num_cut) == (whole.num_tokens - 3, 3)
    assert whole.pieces[-1].text.startswith(cut.pieces[-1].text)
    assert "</s>" not in cut.pieces[-1].text


def test_an_image_that_is_missing_says_so(preview):
    shown = preview(user(Image("absent.png"), "What?"), assistant("Yes"))
    assert Piece("image", "[image 4 tokens: absent.png cannot be read]") in shown.pieces


def test_an_image_that_would_be_cut_is_an_error(preview):
    with pytest.raises(DataError, match="an image would be cut"):
        preview(user(Image("a.png")), assistant("Yes"), max_length=5)
