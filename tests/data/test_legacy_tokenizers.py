"""Tokenizers built from vocabulary files alone, against the libraries that those files are made for."""

import json
import re
import unicodedata

import pytest
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer

from tests.data.legacy_files import (
    GLM4_PATTERN,
    GLM4_SPECIAL,
    GLM_SPECIAL,
    LLAMA_LIKE,
    MAKE,
    QWEN_PATTERN,
    QWEN_SPECIAL,
    SP_OPTIONS,
    by_parts,
    encoding,
    glm,
    internlm,
    internlm2,
    plain,
    rank_file,
    ranks,
    sentencepiece_model,
    texts,
    write,
)
from vlmtool.data.conversation import Conversation, Image, assistant, user
from vlmtool.data.encode import Encoded, TextEncoder
from vlmtool.data.render import IGNORED, Renderer
from vlmtool.data.templates.library import find_template
from vlmtool.data.tokenizer import IMAGE_TAG, load_tokenizer
from vlmtool.data.tokenizers.find import legacy_tokenizer


@pytest.mark.parametrize("name", SP_OPTIONS)
def test_ids_and_text_are_those_of_sentencepiece(name, tmp_path):
    model = sentencepiece_model(name)
    tokenizer, library = legacy_tokenizer(internlm(tmp_path, model)), SentencePieceProcessor(model_proto=model)
    assert len(tokenizer) == library.get_piece_size()
    for text in set(texts("<eoh>", "<eoa>", "ab")) - {"<eoh>", "<eoa>", "ab"}:  # alone: see below
        ids = library.encode(text)
        assert plain(tokenizer, text) == ids, text
        starts_plain = not ("spaces removed" in name and text.lstrip(" ").startswith("▁"))
        if library.unk_id() not in ids and starts_plain:  # what the two write for these is told to differ
            assert tokenizer.decode(ids) == library.decode(ids)


@pytest.mark.parametrize("name", ["bytes", "no prefix", "nfkc", "symbols"])
def test_offsets_of_sentencepiece_cover_the_text(name, tmp_path):
    tokenizer = legacy_tokenizer(internlm(tmp_path, sentencepiece_model(name)))
    for text in texts("<eoh>", "<s>", "</s>"):
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        check_spans(spans, text, kept=name != "nfkc")  # NFKC's rules drop characters


def check_spans(spans, text, kept=True):
    """In the order of the text, none empty, and (nothing dropped) every character in one."""
    assert spans == sorted(spans)
    assert all(start < end <= len(text) for start, end in spans)
    assert not kept or {place for start, end in spans for place in range(start, end)} == set(range(len(text)))


def test_a_token_stands_where_its_letters_stand(tmp_path):
    tokenizer = legacy_tokenizer(internlm(tmp_path, sentencepiece_model("symbols")))
    for text in texts("<eoh>", "<s>"):
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        for token, (start, end) in zip(found.tokens(), found["offset_mapping"], strict=True):
            letters = token.replace("▁", " ").strip(" ")
            if letters and not re.fullmatch("<0x..>", token):  # a byte stands where its character stands
                assert text[start:end].replace("▁", " ").strip(" ") == letters


def test_one_symbol_alone_is_one_token(tmp_path):
    """Else a stop word could not be found; the library puts a lone ▁ before it."""
    model = sentencepiece_model("symbols")
    tokenizer, library = legacy_tokenizer(internlm(tmp_path, model)), SentencePieceProcessor(model_proto=model)
    assert plain(tokenizer, "<eoa>") == [library.piece_to_id("<eoa>")]
    assert library.encode("<eoa>", out_type=str) == ["▁", "<eoa>"]


def test_internlm_begins_with_bos_where_asked(tmp_path):
    model = sentencepiece_model()
    processor = SentencePieceProcessor(model_proto=model)
    tokenizer = legacy_tokenizer(internlm(tmp_path / "with", model))
    assert tokenizer.encode("a dog") == [processor.bos_id(), *processor.encode("a dog")]
    told = {**LLAMA_LIKE, "add_bos_token": False, "add_eos_token": True}
    tokenizer = legacy_tokenizer(write(tmp_path / "without", "InternLMTokenizer", told, tokenizer__model=model))
    assert tokenizer.encode("a dog") == [*processor.encode("a dog"), processor.eos_id()]


@pytest.mark.parametrize("kind", [1, 4, 5])  # ordinary, user-defined, unused
def test_internlm2_names_stand_at_the_ids_of_free_pieces(kind, tmp_path):
    folder, every, model = internlm2(tmp_path, kind)
    tokenizer, processor = legacy_tokenizer(folder), SentencePieceProcessor(model_proto=model)
    assert len(tokenizer) == processor.get_piece_size() == 706
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [705, 704]
    for text in texts("<|im_start|>", "<|im_end|>\n", "</s>"):
        assert plain(tokenizer, text) == by_parts(processor, every, text)


def test_chatglm_has_its_special_tokens_behind_the_pieces(tmp_path):
    # As ChatGLM3's own file lists some of them.
    listed = {"701": dict(content="[gMASK]", special=True), "703": dict(content="sop", special=True)}
    folder = glm(tmp_path, added_tokens_decoder=listed, chat_template="[gMASK]sop<|user|>{{ messages[0]['content'] }}")
    tokenizer = legacy_tokenizer(folder)
    processor = SentencePieceProcessor(model_proto=sentencepiece_model())
    special = dict(enumerate(GLM_SPECIAL, start=700))
    assert tokenizer.convert_tokens_to_ids(GLM_SPECIAL) == list(special)
    marked = {place: name for place, name in special.items() if name != "sop"}
    for text in texts("<|user|>", "<|assistant|>", "[gMASK]", "sop", "eop"):
        if not re.search(r"(?<!\w)sop(?!\w)", text):  # in a word they are letters
            assert plain(tokenizer, text) == by_parts(processor, {**marked, 2: "</s>"}, text)
    assert plain(tokenizer, "people sophisticated") == processor.encode("people sophisticated")
    assert tokenizer.encode("two dogs") == [701, 703, *processor.encode("two dogs")]
    assert tokenizer.eos_token_id == processor.eos_id()
    prompt = tokenizer.apply_chat_template([user_turn("two dogs")], tokenize=False)
    assert plain(tokenizer, prompt) == [701, 703, 706, *processor.encode("two dogs")]


def user_turn(text):
    return {"role": "user", "content": text}


def test_qwen_ids_and_text_are_those_of_tiktoken(tmp_path):
    tokenizer = legacy_tokenizer(
        write(tmp_path, "QWenTokenizer", dict(model_max_length=8192), qwen__tiktoken=rank_file())
    )
    library = encoding(QWEN_PATTERN, QWEN_SPECIAL)
    assert len(tokenizer) == library.n_vocab
    assert tokenizer.convert_tokens_to_ids(QWEN_SPECIAL) == list(range(len(ranks()), library.n_vocab))
    for text in texts("<|im_start|>", "<|im_end|>", "<|extra_204|>", "<|extra_205|>"):
        ids = library.encode(unicodedata.normalize("NFC", text), allowed_special="all")
        assert tokenizer.encode(text) == plain(tokenizer, text) == ids, text  # no BOS
        assert tokenizer.decode(ids) == library.decode(ids)
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.model_max_length) == ("<|endoftext|>", None, 8192)


@pytest.mark.parametrize("listed", [True, False])
def test_glm4_ids_are_those_of_tiktoken(listed, tmp_path):
    added = {str(place): dict(content=name, special=True) for place, name in enumerate(GLM4_SPECIAL, len(ranks()))}
    config = dict(eos_token="<|endoftext|>", **(dict(added_tokens_decoder=added) if listed else {}))
    tokenizer = legacy_tokenizer(write(tmp_path, "ChatGLM4Tokenizer", config, tokenizer__model=rank_file()))
    library = encoding(GLM4_PATTERN, GLM4_SPECIAL)
    prefix = library.encode("[gMASK]<sop>", allowed_special="all")
    for text in texts("<|user|>", "[gMASK]", "<|end_of_video|>"):
        ids = library.encode(text, allowed_special="all")
        assert plain(tokenizer, text) == ids, text
        assert tokenizer.encode(text) == prefix + ids
        assert tokenizer.decode(ids) == library.decode(ids)


def test_offsets_of_tiktoken_cover_the_text(tmp_path):
    tokenizer = legacy_tokenizer(write(tmp_path, "QWenTokenizer", qwen__tiktoken=rank_file()))
    for text in texts("<|im_end|>"):
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        check_spans(spans, text, kept=unicodedata.is_normalized("NFC", text))  # NFC joins an accent to its letter


NATIVE = {"internlm": "llama", "internlm2": "llama", "chatglm": "glm", "glm4": "glm", "qwen": "qwen2"}


@pytest.mark.parametrize("config", ["none", "native", "llava"])
@pytest.mark.parametrize("name", MAKE)
def test_a_saved_one_is_loaded_by_transformers_alone(name, config, tmp_path):
    """Whatever config.json stands beside it."""
    tokenizer = load_tokenizer(MAKE[name](tmp_path / "published"))
    tokenizer.save_pretrained(tmp_path / "saved")
    if config != "none":
        model_type = NATIVE[name] if config == "native" else config
        (tmp_path / "saved" / "config.json").write_text(json.dumps({"model_type": model_type}))
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert legacy_tokenizer(tmp_path / "saved") is None
    for text in texts("<|im_end|>", "<eoh>", "<|user|>", "<s>", IMAGE_TAG)[::8]:
        assert loaded.encode(text) == again.encode(text) == tokenizer.encode(text)
        assert plain(loaded, text) == plain(tokenizer, text)
        assert loaded.decode(plain(tokenizer, text)) == tokenizer.decode(plain(tokenizer, text))
    assert loaded.special_tokens_map.items() >= tokenizer.special_tokens_map.items()  # Qwen2's class adds two


@pytest.mark.parametrize(
    ("name", "template", "end"), [("internlm", "internlm_chat", "<eoa>"), ("qwen", "qwen_chat", "<|im_end|>")]
)
def test_answers_are_marked(name, template, end, tmp_path):
    renderer = Renderer(load_tokenizer(MAKE[name](tmp_path)), find_template(template, None), lambda image: 3)
    answers = ["两只狗 🙂.", "a red circle", "  <image> é"]
    turns = [turn for answer in answers for turn in (user("What?\n", Image("a")), assistant(answer))]
    rendered = renderer.sample(Conversation("s", tuple(turns)))
    assert rendered.input_ids.count(renderer.image_token_id) == 9
    learned = [token for token, label in zip(rendered.input_ids, rendered.labels, strict=True) if label != IGNORED]
    # SentencePiece begins each piece of a text with a ▁, so also what follows a special token.
    expected = "".join(answer + end for answer in answers)
    assert renderer.tokenizer.decode(learned).replace(" ", "") == expected.replace(" ", "")
    assert renderer.tokenizer.convert_tokens_to_ids(end) in renderer.stop_ids()


@pytest.mark.parametrize("name", MAKE)
def test_word_by_word_the_ids_are_the_same(name, tmp_path):
    tokenizer = legacy_tokenizer(MAKE[name](tmp_path)).backend_tokenizer
    encoder = TextEncoder(tokenizer)
    for text in texts("the red", " dogs", "<|user|>", "<eoh>the", ". The"):
        encoded = Encoded()
        encoder.add(encoded, text, 0)
        assert encoded.ids == tokenizer.encode(text, add_special_tokens=False).ids
