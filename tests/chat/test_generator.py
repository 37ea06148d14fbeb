"""The generator's answers: those of Hugging Face, the same in every batch, in pieces and whole."""

from dataclasses import replace

import pytest
import torch
from PIL import Image as PILImage
from tokenizers import AddedToken

from vlmtool.chat.generator import GenerationSettings, Generator, Request, answering, stop_ids
from vlmtool.data.conversation import Image, Message, assistant, user
from vlmtool.utils.errors import DataError

GREEDY = GenerationSettings(max_new_tokens=24)
SAMPLED = GenerationSettings(max_new_tokens=24, temperature=0.9, top_k=40, top_p=0.9, repetition_penalty=1.2, seed=3)


def ask(text: str, *images: str) -> Request:
    return Request((user(*[Image(image) for image in images], text),))


@pytest.fixture
def requests(pictures: list[str]) -> list[Request]:
    """Of several lengths: one image, none, two, a conversation, the first image again."""
    history = (user(Image(pictures[0]), "Colour?"), assistant("Red."), user("And now, a longer question?"))
    return [
        ask("What?", pictures[0]),
        ask("A question without a picture"),
        ask("Which of both?", pictures[1], pictures[2]),
        Request(history),
        ask("What is this, then?", pictures[0]),
    ]


def reference(generator: Generator, request: Request, **options) -> list[int]:
    """New tokens of transformers' own `generate`."""
    model = generator.model
    ids = torch.tensor([generator.renderer.prompt(request.messages)])
    images = [image for message in request.messages for image in message.images]
    embeds = model.embed(ids, model.encode_images(generator.transform(images)) if images else [])
    out = model.llm.generate(
        inputs_embeds=embeds, attention_mask=torch.ones_like(ids), max_new_tokens=24, pad_token_id=0, **options
    )
    return out[0].tolist()


def decoded(generator: Generator, tokens: list[int]) -> str:
    return generator.renderer.tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_answers_are_those_of_hugging_face(generator, requests, penalty):
    settings = replace(GREEDY, repetition_penalty=penalty)
    expected = [
        decoded(generator, reference(generator, r, do_sample=False, repetition_penalty=penalty)) for r in requests
    ]
    assert [generator.generate([r], settings)[0] for r in requests] == expected
    assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_batch_answers_like_its_rows_alone(generator, requests, settings):
    alone = [generator.generate([request], settings)[0] for request in requests]
    assert generator.generate(requests, settings) == alone
    assert generator.generate(requests[::-1], settings) == alone[::-1]
    assert generator.generate([], settings) == []


def test_sampling_follows_the_distribution_and_the_seed(generator, requests):
    answers = {generator.generate(requests[:1], replace(SAMPLED, seed=seed))[0] for seed in range(4)}
    assert len(answers) == 4
    assert generator.generate(requests[:1], SAMPLED) == generator.generate(requests[:1], SAMPLED)
    nearly_greedy = replace(GREEDY, temperature=1e-4)
    assert generator.generate(requests, nearly_greedy) == generator.generate(requests, GREEDY)


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_pieces_of_a_stream_are_the_answer(generator, requests, settings):
    for request in requests:
        pieces = list(generator.stream(request, settings))
        assert "".join(pieces) == generator.generate([request], settings)[0]
        assert len(pieces) > 3


def end_with(generator: Generator, token: int) -> None:
    """Let the model say `token` when it is its turn, by making it the tokenizer's EOS."""
    generator._stop_ids = frozenset({token})


def test_each_row_ends_at_its_own_end_token(generator, requests):
    whole = [reference(generator, request, do_sample=False) for request in requests]
    end_with(generator, whole[0][5])
    expected = [decoded(generator, t[: t.index(whole[0][5])] if whole[0][5] in t else t) for t in whole]
    assert generator.generate(requests, GREEDY) == expected
    assert len(expected[0]) < len(decoded(generator, whole[0]))


def test_finished_rows_are_no_longer_computed(generator, requests, monkeypatch):
    whole = reference(generator, requests[0], do_sample=False)
    end_with(generator, whole[5])
    rows = []
    llm = generator.model.llm
    llm.register_forward_pre_hook(lambda _, args, kwargs: rows.append(len(kwargs["inputs_embeds"])), with_kwargs=True)
    generator.generate(requests, GREEDY)
    assert rows[0] == 5 and rows[-1] < 5


def test_a_stop_word_of_several_tokens_ends_the_answer_and_is_cut_off(generator, requests):
    whole = generator.generate(requests, GREEDY)
    word = whole[2][4:7]
    assert len(generator.renderer.tokenizer.encode(word, add_special_tokens=False)) > 1
    settings = replace(GREEDY, stop_words=(word,))
    expected = [text.split(word)[0].strip() for text in whole]
    assert generator.generate(requests, settings) == expected
    assert ["".join(generator.stream(request, settings)) for request in requests] == expected


def test_an_image_that_occurs_twice_is_encoded_once(generator, pictures):
    encoded = []
    generator.model.vision_encoder.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
    in_memory = PILImage.open(pictures[3])
    same = [Request((user(Image(in_memory), text),)) for text in ("one", "two")]
    generator.generate([ask("a", pictures[0]), ask("b", pictures[1], pictures[0]), *same], GREEDY)
    assert encoded == [3]


def test_the_length_of_a_prompt_counts_image_tokens_and_opens_nothing(generator):
    with_image = generator.prompt_length(ask("What?", "missing.png"))
    assert with_image == generator.prompt_length(ask("What?")) + 4


def test_a_missing_image_is_an_error(generator):
    with pytest.raises(DataError, match="missing.png"):
        generator.generate([ask("What?", "missing.png")], GREEDY)


def test_a_prompt_beyond_the_context_is_an_error_and_an_answer_ends_there(generator):
    with pytest.raises(DataError, match="256"):
        generator.generate([ask("x" * 300)], GREEDY)
    length = generator.prompt_length(ask(""))
    request = ask("x" * (256 - length - 3))
    tokens = reference(generator, request, do_sample=False)[:3]
    assert generator.generate([request, ask("short")], GREEDY)[0] == decoded(generator, tokens)


def test_the_middle_of_training_is_left_as_it_was(generator, requests):
    model = generator.model
    expected = generator.generate(requests[:1], GREEDY)
    model.projector.requires_grad_(True)
    model.train()
    model.vision_encoder.eval()
    before = [module.training for module in model.modules()]
    assert generator.generate(requests[:1], GREEDY) == expected
    stream = generator.stream(requests[0], GREEDY)
    first = next(stream)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert [module.training for module in model.modules()] == before
    model.projector(torch.ones(1, 1, 64)).sum().backward()
    assert first + "".join(stream) == expected[0]


def test_the_mode_is_restored_after_an_error(generator):
    model = generator.model.train()
    before = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), answering(model):
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError
    assert model.training and [module.training for module in model.modules()] == before


def test_a_system_message_is_read(generator):
    request = Request((Message("system", ("Be brief.",)), user("What?")))
    assert generator.generate([request], GREEDY) != generator.generate([ask("What?")], GREEDY)


def test_an_end_of_the_models_own_that_was_added_as_special_ends_an_answer(generator):
    """As `<|end|>` of Phi-3, which its tokenizer does not name as its EOS; an ordinary word in the list does not."""
    tokenizer, listed = generator.renderer.tokenizer, generator.model.llm.generation_config
    tokenizer.add_tokens([AddedToken("<|end|>", special=True), AddedToken("word", special=False)])
    end, word = tokenizer.convert_tokens_to_ids(["<|end|>", "word"])
    listed.eos_token_id = [tokenizer.eos_token_id, end, word]
    found = stop_ids(generator.renderer, generator.model.llm)
    assert {end, tokenizer.eos_token_id} <= found and word not in found
