"""Texts tokenized word by word against the tokenizers library, which tokenizes them whole."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from vlmtool.data.encode import Encoded, TextEncoder, joins_no_words

WORDS = ["the", "picture", "shows", "a", "red", "circle", "above", "two", "dogs", "it's", "we'll", "RGB", "x1", "été"]
TEXT = " ".join(random.Random(0).choices(WORDS + ["round.", "blue,", "\n\n", "12", "(left)", "中文", "🙂"], k=4000))
ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(*before: pre_tokenizers.PreTokenizer, trim_offsets: bool = True) -> Tokenizer:
    """As GPT-2's; with a step before that cuts the text, as those after it."""
    tokenizer = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not before)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, last]) if before else last
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return train(tokenizer, sorted(pre_tokenizers.ByteLevel.alphabet()))


def sentencepiece(old: bool) -> Tokenizer:
    """As Llama 2's: the text is one word, its spaces are letters."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    train(tokenizer, [])
    if old:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def train(tokenizer: Tokenizer, alphabet: list[str]) -> Tokenizer:
    special = ["<unk>", "<s>", "</s>", "<image>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=alphabet, limit_alphabet=300, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def qwen() -> Tokenizer:
    tokenizer = byte_level(pre_tokenizers.Split(Regex(ENGLISH + r"\p{N}" + REST), "isolated"))
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


TOKENIZERS = {
    "gpt2": byte_level(),
    "smollm": byte_level(pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(use_regex=True)),
    "llama3": byte_level(pre_tokenizers.Split(Regex(ENGLISH + r"\p{N}{1,3}" + REST), "isolated"), trim_offsets=False),
    "qwen": qwen(),
    "llama2": sentencepiece(old=True),
    "llama2_new": sentencepiece(old=False),
}
texts = st.lists(
    st.sampled_from([*WORDS, *" \n.,:'-", "  ", "</s>", "<image>", "<s>", "e\u0301", "\t", "\u3000", "\xa0"])
    | st.text(max_size=4),
    max_size=30,
).map("".join) | st.lists(st.sampled_from([*WORDS, "round.", "</s>USER:", "<image>\nWhat"]), max_size=30).map(" ".join)


def places(encoded: Encoded, edges: list[int]) -> list[tuple[int, int, bool]]:
    return [(encoded.first_from(edge), encoded.first_beyond(edge), encoded.straddles(edge)) for edge in edges]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, derandomize=True, deadline=None)
@given(texts=st.lists(texts, min_size=1, max_size=4), data=st.data())
def test_ids_and_places_are_those_of_the_whole_text(name, texts, data):
    tokenizer = TOKENIZERS[name]
    by_words = TextEncoder(tokenizer)
    image = tokenizer.token_to_id("<image>")
    for text in texts:  # with what the texts before have taught it
        marks = data.draw(st.lists(st.integers(0, len(text)), max_size=4))
        edges = sorted({*marks, *(found.start() for found in re.finditer("<image>", text))})
        result = tokenizer.encode(text, add_special_tokens=False)
        whole = Encoded()
        whole.add_piece((result.ids, [(start, max(end, 1)) for start, end in result.offsets]), 0)
        encoded, counted = Encoded(), Encoded(keeps_ids=False)
        for made in (encoded, counted):
            by_words.add(made, text, 0, edges)
            assert made.num_tokens == len(result.ids)
            assert places(made, edges) == places(whole, edges)
            assert made.places(image) == whole.places(image) == [i for i, one in enumerate(result.ids) if one == image]
        assert encoded.ids == result.ids
        assert counted.ids == []


@pytest.mark.parametrize("name", TOKENIZERS)
def test_these_are_tokenized_by_words(name):
    """Else the test above shows nothing."""
    assert joins_no_words(TOKENIZERS[name])


def test_a_word_is_tokenized_once():
    class Counting:
        def __init__(self, tokenizer):
            self.tokenizer, self.texts = tokenizer, []

        def encode(self, text, add_special_tokens):
            self.texts.append(text)
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    encoder = TextEncoder(TOKENIZERS["gpt2"])
    encoder._tokenizer = counting = Counting(TOKENIZERS["gpt2"])
    text = "a red dog, a red circle and a dog, and a red circle"
    encoder.add(Encoded(), text, 0)
    encoder.add(Encoded(), "a circle and a dog, red circle", 0)
    tokenized = ["a", "red", "dog,", "a", "circle", "and", "circle"]  # a text's first and last words have places
    assert [text.split()[-1] for text in counting.texts] == tokenized
    encoder.add(Encoded(keeps_ids=False), text, 0)
    encoder.add(Encoded(keeps_ids=False), text, 0)
    assert [text.split()[-1] for text in counting.texts] == [*tokenized, "red", "dog,", "a", "circle", "and"]


def with_token(**options):
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(**options)])
    return tokenizer


def with_joined_words():
    """A SentencePiece model that was trained across spaces."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return train(tokenizer, [])


def with_dropout():
    tokenizer = byte_level()
    tokenizer.model.dropout = 0.5
    return tokenizer


def without_bytes():
    """Unknown letters on both sides of a cut would be one token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return train(tokenizer, [])


def that_is_normalized():
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Strip()
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_token(content="dog", lstrip=True),
        lambda: with_token(content="dog", rstrip=True),
        lambda: with_token(content="dog", single_word=True),
        lambda: with_token(content="a dog"),
        lambda: byte_level(pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated")),
        with_joined_words,
        with_dropout,
        without_bytes,
        that_is_normalized,
        unigram,
    ],
)
def test_others_are_tokenized_whole(make):
    assert not joins_no_words(make())
