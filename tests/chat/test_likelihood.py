"""Log-probabilities of options: those of transformers' plain forward over prompt and option, in every batch."""

import pytest
import torch

from tests.chat.conftest import byte_tokenizer
from vlmtool.chat.generator import Generator, Request
from vlmtool.chat.likelihood import likelihoods, option_ids
from vlmtool.data.conversation import Conversation, Image, assistant, user
from vlmtool.data.render import IGNORED, Renderer
from vlmtool.data.templates.library import find_template, parse_template, template_names
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.utils.errors import DataError, UsageError

# Of one token, of three, of two with a common beginning: the tokenizer's tokens are bytes.
OPTIONS = [("A", "B", "C"), ("Yes", "No"), ("A", "AB", "AC"), ("D", "E")]


@pytest.fixture
def requests(pictures: list[str]) -> list[Request]:
    """Of several lengths, with and without a picture; the last two begin alike."""
    shared = "Which of these long and nearly equal questions is meant?"
    return [
        Request((user(Image(pictures[0]), "Which?"),)),
        Request((user("Is it so? A question without a picture."),)),
        Request((user(Image(pictures[1]), f"{shared} One"),)),
        Request((user(Image(pictures[1]), f"{shared} Two"),)),
    ]


def reference(generator: Generator, request: Request, option: str) -> float:
    """Sum over the option's tokens in one forward pass of the whole training sample, nothing cached."""
    sample = generator.renderer.sample(Conversation("x", (*request.messages, assistant(option))))
    images = [image for message in request.messages for image in message.images]
    model, ids = generator.model, torch.tensor([sample.input_ids])
    with torch.no_grad():
        embeds = model.embed(ids, model.encode_images(generator.transform(images)) if images else [])
        logits = model.llm(inputs_embeds=embeds).logits[0].log_softmax(-1)
    places = [place for place, label in enumerate(sample.labels) if label != IGNORED][:-1]  # the last is EOS
    assert len(places) == len(option)
    return sum(float(logits[place - 1, sample.input_ids[place]]) for place in places)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("shares_prefixes", [True, False])
def test_they_are_those_of_one_forward_pass_over_the_sample(generator, requests, batch_size, shares_prefixes):
    generator.shares_prefixes = shares_prefixes
    found = []
    for first in range(0, 4, batch_size):
        part = slice(first, first + batch_size)
        found += likelihoods(generator, requests[part], OPTIONS[part])
    for request, options, values in zip(requests, OPTIONS, found, strict=True):
        assert list(values) == list(options)
        for option in options:
            # float32: a sum over three tokens of a model whose logits are of order 10
            assert values[option] == pytest.approx(reference(generator, request, option), abs=2e-4)


def test_options_of_one_token_take_one_pass_over_the_prompt(generator, requests):
    passes = []
    generator.model.llm.register_forward_pre_hook(lambda *_: passes.append(1))
    likelihoods(generator, requests[:1], [("A", "B", "C", "D")])
    assert len(passes) == 1
    likelihoods(generator, requests[:1], [("A", "Yes")])
    assert len(passes) == 1 + 3  # the prompt, and two more tokens of Yes


def test_no_requests(generator):
    assert likelihoods(generator, [], []) == []


def test_an_option_beyond_the_context_is_an_error(generator):
    length = generator.prompt_length(Request((user(""),)))
    request = Request((user("x" * (256 - length - 1)),))
    assert len(likelihoods(generator, [request], [("A", "B")])[0]) == 2
    with pytest.raises(DataError, match="257 tokens"):
        likelihoods(generator, [request], [("A", "No")])


@pytest.mark.parametrize("name", template_names())
def test_ids_are_those_of_the_training_sample(llm_folder, name):
    renderer = Renderer(load_tokenizer(llm_folder), find_template(name, None), lambda image: 4)
    request = Request((user("Which?\nA. red\nB. green"),))
    prompt = renderer.prompt(request.messages)
    for option in ("A", "Yes"):
        ids = option_ids(renderer, request, prompt, option)
        sample = renderer.sample(Conversation("x", (*request.messages, assistant(option))))
        assert sample.input_ids[: len(prompt) + len(ids)] == prompt + ids
        assert all(label != IGNORED for label in sample.labels[len(prompt) : len(prompt) + len(ids)])
        assert renderer.tokenizer.decode(ids).strip() == option


def renderer_of(folder, template: str) -> Renderer:
    return Renderer(load_tokenizer(folder), parse_template("own", template), lambda image: 4)


def test_a_template_without_marks_gives_the_same_ids(llm_folder):
    marked = byte_tokenizer().chat_template
    plain = marked.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    assert plain != marked
    request = Request((user("Which?"),))
    ids = [
        option_ids(renderer, request, renderer.prompt(request.messages), "Yes")
        for renderer in (renderer_of(llm_folder, marked), renderer_of(llm_folder, plain))
    ]
    assert ids[0] == ids[1] == byte_tokenizer().encode("Yes", add_special_tokens=False)


@pytest.mark.parametrize(
    "answer", ["'I say ' + message['content']", "message['content'] | lower"], ids=["more before it", "changed"]
)
def test_a_template_that_changes_the_answer_is_refused(llm_folder, answer):
    template = byte_tokenizer().chat_template.replace("message['content'] + eos_token", f"{answer} + eos_token")
    renderer, request = renderer_of(llm_folder, template), Request((user("Which?"),))
    with pytest.raises(UsageError, match="an answer 'A' does not directly follow"):
        option_ids(renderer, request, renderer.prompt(request.messages), "A")
