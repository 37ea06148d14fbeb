"""What a batch computes once, and that its answers are those of its rows alone."""

import pytest
import torch

from tests.chat.test_generator import GREEDY, SAMPLED, decoded, reference
from vlmtool.chat.batch import Family, find_families
from vlmtool.chat.decoder import Decoder, ImagePosition
from vlmtool.chat.generator import Request
from vlmtool.chat.prompt import Prompt
from vlmtool.data.conversation import Image, user


def prompt(*keys) -> Prompt:
    return Prompt([0] * len(keys), [], [], list(keys))


def image(name: str) -> list[ImagePosition]:
    return [ImagePosition(name, number) for number in range(4)]


def rotations(picture: str, hint: str) -> list[Request]:
    """One question with its options in four orders, as MMBench asks it."""
    options = ["red", "dark green", "blue", "no"]
    texts = [f"{hint}\n" + "\n".join(options[turn:] + options[:turn]) + "\nWhich?" for turn in range(4)]
    return [Request((user(Image(picture), text),)) for text in texts]


@pytest.fixture
def questions(pictures) -> list[Request]:
    """Two questions of four rotations, one without a picture, one by itself, and a last pair."""
    return [
        *rotations(pictures[0], "What colour does the picture have?"),
        *rotations(pictures[1], "What do you see? Look twice."),
        Request((user("A question without a picture, quite as long as all the others here"),)),
        Request((user(Image(pictures[2]), "What is this, then, by itself?"),)),
        *rotations(pictures[3], "And this?")[:2],
    ]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([prompt(1, 2, 3, 4, 5), prompt(1, 2, 3, 6, 7, 8)], [Family(0, 2, 3)]),
        ([prompt(1, 2, 3, 4), prompt(9, 2, 3, 4), prompt(9, 2, 3, 5)], [Family(0, 1, 3), Family(1, 2, 3)]),
        ([prompt(1, 2, 3), prompt(1, 2, 3)], [Family(0, 2, 2)]),  # one token is left to run
        ([prompt(1, 2, 3, 4), prompt(1, 2, 3, 5), prompt(1, 2, 6, 7)], [Family(0, 3, 2)]),
        ([prompt(1, *range(20)), prompt(1, *range(30, 50))], [Family(0, 1, 20), Family(1, 1, 20)]),  # not worth it
        ([prompt(1, *image("a"), 2), prompt(1, *image("b"), 2)], [Family(0, 1, 5), Family(1, 1, 5)]),
        ([prompt(1, *image("a"), 2, 3), prompt(1, *image("a"), 4)], [Family(0, 2, 5)]),
        ([prompt(*image("a"), 2), prompt(*image("a"))], [Family(0, 1, 4), Family(1, 1, 3)]),  # an image stays whole
        ([prompt(7)], [Family(0, 1, 0)]),
    ],
)
def test_neighbours_that_begin_alike_are_a_family(prompts, expected):
    assert find_families(prompts) == expected


def test_shared_beginnings_change_no_answer(generator, questions):
    expected = [decoded(generator, reference(generator, request, do_sample=False)) for request in questions]
    assert len(set(expected)) == len(expected)
    for size in (1, 3, 4, 5, len(questions)):
        batches = [questions[start : start + size] for start in range(0, len(questions), size)]
        for generator.shares_prefixes in (True, False):
            answers = [text for batch in batches for text in generator.generate(batch, GREEDY)]
            assert answers == expected, (size, generator.shares_prefixes)


def test_sampled_answers_are_the_same_too(generator, questions):
    alone = [generator.generate([request], SAMPLED)[0] for request in questions]
    assert generator.generate(questions, SAMPLED) == alone


def test_what_neighbours_share_is_run_once(generator, questions, monkeypatch):
    run = []
    prefill = Decoder.prefill

    def counting(self, inputs_embeds, mask=None):
        run.append(int(mask.sum()) if mask is not None else inputs_embeds.shape[0] * inputs_embeds.shape[1])
        return prefill(self, inputs_embeds, mask)

    monkeypatch.setattr(Decoder, "prefill", counting)
    rows = questions[:4]
    lengths = [generator.prompt_length(request) for request in rows]
    generator.generate(rows, GREEDY)
    (family,) = generator.prepare(rows).families
    assert family.shared > 30
    assert run == [family.shared, sum(lengths) - 4 * family.shared]


def test_rows_with_and_without_pictures_keep_their_own(generator, pictures):
    """The same text about other pictures is answered by what they show."""
    requests = [Request((user(Image(name), "What colour does the picture have, would you say?"),)) for name in pictures]
    twice = [request for request in requests for _ in range(2)]
    answers = generator.generate(twice, GREEDY)
    assert answers[::2] == answers[1::2] == [generator.generate([request], GREEDY)[0] for request in requests]
    assert len(set(answers)) == len(pictures)


def test_logits_do_not_depend_on_the_company(generator, questions):
    """In float32, to rounding: two passes of the model add up in another order."""
    batch = generator.prepare(questions)
    with torch.no_grad():
        together = generator._prefill(Decoder(generator.model.llm), batch)
        alone = torch.cat(
            [generator._prefill(Decoder(generator.model.llm), generator.prepare([request])) for request in questions]
        )
    assert torch.allclose(together, alone, atol=1e-4, rtol=0)
