"""Any conversation through every shipped template: answers are learned, pictures counted, prompts as in training."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st
from tokenizers import processors

from tests.answer_marks import AROUND
from tests.fuzz.profiles import fuzz, outcome
from tests.fuzz.strategies import texts
from tests.standins import INTERNLM_SPECIAL, SPECIAL, make_tokenizer
from vlmtool.data.conversation import Conversation, Image, Message
from vlmtool.data.render import IGNORED, Renderer
from vlmtool.data.templates.library import find_template, template_names
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.utils.errors import VlmtoolError

MARKERS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TOKENIZERS = {"llama": SPECIAL, "internlm": INTERNLM_SPECIAL, "markers": [*SPECIAL, *MARKERS]}
MARK = "\ue0f1"  # stands for a literal tag while a template is rendered; texts lose it

long_words = st.builds(lambda char, count: char * count, st.characters(exclude_categories=["Cs"]), st.integers(1, 3000))
contents = texts | st.text(max_size=20) | long_words
pictures = st.sampled_from([Image("a.png"), Image("b.png")])
messages = st.one_of(
    st.builds(Message, st.just("user"), st.lists(contents | pictures, max_size=4).map(tuple)),
    st.builds(Message, st.sampled_from(["system", "assistant"]), st.tuples(contents)),
)


def tokens_of(image: Image) -> int:
    return 3 if image.source == "a.png" else 5


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Callable[[str, str], Renderer]:
    tokenizers = {}
    for name, special in TOKENIZERS.items():
        tokenizer = make_tokenizer(special)
        if name == "markers":  # as Llama 3's, and with tokens that may lie across the edge of an answer
            tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
            tokenizer.add_tokens(["\n\n", "\n\n\n", "  "])
        tokenizer.save_pretrained(folder / name)
        tokenizers[name] = load_tokenizer(folder / name)
    return lambda tokenizer, template: Renderer(tokenizers[tokenizer], find_template(template, None), tokens_of)


def test_every_template_has_its_ends():
    assert set(AROUND) == set(template_names())


@fuzz(
    70,
    turns=st.lists(messages, min_size=1, max_size=6),
    tokenizer=st.sampled_from(sorted(TOKENIZERS)),
    template=st.sampled_from(sorted(AROUND)),
)
def test_a_sample_teaches_its_answers_and_begins_as_its_prompts(renderer, turns, tokenizer, template):
    render = renderer(tokenizer, template)
    conversation = Conversation("fuzz", tuple(turns))
    sample = outcome(lambda: render.sample(conversation))
    assert not isinstance(sample, VlmtoolError), sample  # nothing that the reader lets through is refused here
    assert len(sample.labels) == len(sample.input_ids)
    image = render.image_token_id
    assert sample.input_ids.count(image) == sum(map(tokens_of, conversation.images))
    assert image not in sample.labels
    assert all(label in (IGNORED, token) for label, token in zip(sample.labels, sample.input_ids, strict=True))

    before, after = AROUND[template]
    answers = [before + text_of(turn) + after for turn in turns if turn.role == "assistant"]
    learned = render.tokenizer.decode([label for label in sample.labels if label != IGNORED])
    assert learned == "".join(answers)
    whole = render.tokenizer.decode([token for token in sample.input_ids if token != image])
    for turn in turns:
        assert all(part.replace(MARK, "") in whole for part in turn.content if isinstance(part, str))

    for place, turn in enumerate(turns):
        if turn.role == "assistant":
            prompt = render.prompt(turns[:place])
            assert sample.input_ids[: len(prompt)] == prompt


def text_of(turn: Message) -> str:
    return "".join(str(part) for part in turn.content).replace(MARK, "")
