"""A prefix in the generator: the answers of peft's own `generate`, in every batch, in pieces, and from turn to turn."""

import pytest
import torch

from tests.chat.test_generator import GREEDY, SAMPLED, ask, decoded, requests  # noqa: F401
from vlmtool.chat.decoder import PromptCache
from vlmtool.chat.generator import Generator, Request, answering
from vlmtool.chat.likelihood import likelihoods
from vlmtool.data.conversation import assistant, user
from vlmtool.models.prefix import add_prefix
from vlmtool.recipe.parts import Prefix
from vlmtool.utils.errors import DataError

TOKENS = 5


@pytest.fixture
def prefixed(generator) -> Generator:
    """The tiny model with a prefix of random keys and values."""
    torch.manual_seed(7)
    generator.model.llm = add_prefix(generator.model.llm, Prefix(num_tokens=TOKENS)).requires_grad_(False).eval()
    return generator


@torch.no_grad()
def greedy(generator: Generator, request: Request, tokens: int = 24) -> list[int]:
    """New tokens by peft's own forward over the whole text so far, anew for each: no cache but the prefix."""
    model = generator.model
    ids = torch.tensor([generator.renderer.prompt(request.messages)])
    images = [image for message in request.messages for image in message.images]
    embeds = model.embed(ids, model.encode_images(generator.transform(images)) if images else [])
    found: list[int] = []
    while len(found) < tokens and found[-1:] != [257]:
        found.append(int(model.llm(inputs_embeds=embeds).logits[0, -1].argmax()))
        embeds = torch.cat([embeds, model.llm.get_input_embeddings()(torch.tensor([found[-1:]]))], dim=1)
    return found


def test_greedy_answers_are_those_of_peft(prefixed, requests):  # noqa: F811
    expected = [decoded(prefixed, greedy(prefixed, request)) for request in requests]
    assert prefixed.generate(requests, GREEDY) == expected and len(set(expected)) == len(expected)
    prefixed.model.llm = prefixed.model.llm.get_base_model()
    assert prefixed.generate(requests, GREEDY) != expected


def test_greedy_answers_are_those_of_its_generate(prefixed):
    """Of text alone: with a prefix, peft's `generate` takes no embeddings."""
    for request in (ask("A question without a picture"), ask("And one more")):
        ids = torch.tensor([prefixed.renderer.prompt(request.messages)])
        out = prefixed.model.llm.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0
        )
        assert prefixed.generate([request], GREEDY) == [decoded(prefixed, out[0, ids.shape[1] :].tolist())]


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("shares_prefixes", [True, False])
def test_answers_are_the_same_in_every_batch_and_in_pieces(prefixed, requests, settings, shares_prefixes):  # noqa: F811
    prefixed.shares_prefixes = shares_prefixes
    alone = [prefixed.generate([r], settings)[0] for r in requests]
    assert prefixed.generate(requests, settings) == alone
    assert ["".join(prefixed.stream(r, settings)) for r in requests] == alone


def test_the_logits_are_those_of_one_pass(prefixed, requests):  # noqa: F811
    """Rows padded on the left begin at the position after the prefix, as a row alone does."""
    batch = prefixed.prepare(requests)
    with answering(prefixed.model):
        _, logits = prefixed.read_prompts(batch)
        for row, request in zip(logits, requests, strict=True):
            ids = torch.tensor([prefixed.renderer.prompt(request.messages)])
            images = [image for message in request.messages for image in message.images]
            own = prefixed.model.encode_images(prefixed.transform(images)) if images else []
            wanted = prefixed.model.llm(inputs_embeds=prefixed.model.embed(ids, own), use_cache=False).logits[0, -1]
            torch.testing.assert_close(row, wanted, rtol=0, atol=1e-5)


def test_a_conversation_goes_on_over_its_cache(prefixed, pictures):
    cache = PromptCache()
    first = ask("What?", pictures[0])
    said = "".join(prefixed.stream(first, GREEDY, cache))
    turns = (
        Request((*first.messages, assistant(said), user("Really?"))),  # goes on
        Request((*first.messages, assistant("No."), user("Really?"))),  # is cut back
        ask("Something else", pictures[1]),  # begins anew
    )
    for request in turns:
        begun = len(cache.keys)
        assert "".join(prefixed.stream(request, GREEDY, cache)) == prefixed.generate([request], GREEDY)[0]
        assert cache.num_prefilled < len(prefixed.renderer.prompt(request.messages)) and begun
        assert cache.kv.get_seq_length() == len(cache.keys) + TOKENS


def test_likelihoods_see_the_prefix(prefixed):
    request = ask("Yes or no?")
    found = likelihoods(prefixed, [request], [("A", "BC")])[0]
    prompt = prefixed.renderer.prompt(request.messages)
    ids = torch.tensor([[*prompt, *prefixed.renderer.tokenizer("BC", add_special_tokens=False).input_ids]])
    with torch.no_grad():
        logits = prefixed.model.llm(inputs_embeds=prefixed.model.embed(ids)).logits[0].log_softmax(-1)
    wanted = sum(logits[place - 1, ids[0, place]] for place in range(len(prompt), ids.shape[1]))
    assert found["BC"] == pytest.approx(float(wanted), abs=1e-4)


def test_the_context_is_shorter_by_the_prefix(prefixed):
    room = 256 - TOKENS
    assert prefixed.context == room
    long = ask("x" * (room - prefixed.prompt_length(ask("")) - 1))
    assert prefixed.prompt_length(long) == room - 1
    assert prefixed.generate([long], GREEDY) is not None
    with pytest.raises(DataError, match=f"reads {room} at most"):
        prefixed.generate([ask("x" * room)], GREEDY)
