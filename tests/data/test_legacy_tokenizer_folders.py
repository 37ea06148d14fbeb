"""Which folders get a tokenizer of ours, and what is said of damaged ones."""

import json

import pytest
from sentencepiece import SentencePieceProcessor

from tests.data.legacy_files import (
    LLAMA_LIKE,
    changed,
    internlm,
    plain,
    rank_file,
    sentencepiece_model,
    write,
)
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.data.tokenizers.find import legacy_tokenizer
from vlmtool.utils.errors import CheckpointError


@pytest.mark.parametrize(
    ("config", "model_config"),
    [
        ({"tokenizer_class": "LlamaTokenizer"}, {"model_type": "internlm"}),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, {"model_type": "internlm2"}),
        ({}, {"model_type": "llama"}),
        ({}, {"model_type": ["llama"]}),
    ],
)
def test_others_are_left_to_transformers(config, model_config, tmp_path):
    folder = internlm(tmp_path, sentencepiece_model())
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps(model_config))
    assert legacy_tokenizer(folder) is None


@pytest.mark.parametrize(
    ("config", "model_config"),
    [
        ({}, {"model_type": "internlm"}),
        ({}, {"tokenizer_class": "InternLM2TokenizerFast"}),
        ({"auto_map": ["tokenization_xmodel.XModelTokenizer", None]}, {}),
        ({"auto_map": {"AutoTokenizer": "tokenization_internlm.InternLMTokenizer"}}, {"model_type": "llama"}),
    ],
)
def test_the_class_may_be_told_in_several_places(config, model_config, tmp_path):
    folder = internlm(tmp_path, sentencepiece_model())
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps(model_config))
    assert legacy_tokenizer(folder).encode("the dog")[0] == 1


def test_without_its_vocabulary_it_is_left_to_transformers(tmp_path):
    assert legacy_tokenizer(write(tmp_path, "QWenTokenizer")) is None
    with pytest.raises(CheckpointError, match="needs code of its own"):
        load_tokenizer(tmp_path)


def test_damaged_side_files_are_left_to_transformers(tmp_path):
    folder = internlm(tmp_path, sentencepiece_model())
    (folder / "tokenizer_config.json").write_text("{")
    assert legacy_tokenizer(folder) is None


def scores_alike(proto):
    for piece in proto.pieces:
        piece.score = 0.0


def unused_pieces(proto):
    for piece in proto.pieces[-400:-300]:
        piece.type = 5


def unused_that_nothing_makes(proto):
    proto.pieces.add(piece="[UNUSED_TOKEN_1]", score=0.0, type=5)


def unigram(proto):
    proto.trainer_spec.model_type = 1


def spaces_behind(proto):
    proto.trainer_spec.treat_whitespace_as_suffix = True


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: b"version https://git-lfs.github.com/spec/v1", "cannot be read as a SentencePiece model"),
        (lambda: b"", "no SentencePiece BPE model"),
        (lambda: changed(sentencepiece_model(), unigram), "no SentencePiece BPE model"),
        (lambda: changed(sentencepiece_model(), scores_alike), "get other ids than from sentencepiece"),
        (lambda: changed(sentencepiece_model(), unused_pieces), "takes tokens that it does not use apart"),
        (lambda: changed(sentencepiece_model(), spaces_behind), "writes spaces in another way"),
    ],
)
def test_a_model_without_fast_form_is_refused(model, message, tmp_path):
    with pytest.raises(CheckpointError, match=message) as caught:
        legacy_tokenizer(internlm(tmp_path, model()))
    assert str(tmp_path / "tokenizer.model") in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_unused_pieces_that_nothing_makes_do_no_harm(tmp_path):
    model = changed(sentencepiece_model(), unused_that_nothing_makes)
    tokenizer, library = legacy_tokenizer(internlm(tmp_path, model)), SentencePieceProcessor(model_proto=model)
    assert plain(tokenizer, "[UNUSED_TOKEN_1] dogs") == library.encode("[UNUSED_TOKEN_1] dogs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:300], b"?? 300", *lines[301:]], r"qwen\.tiktoken:301: not a token"),
        (lambda lines: [*lines[:7], b"AAAA", *lines[8:]], r"qwen\.tiktoken:8: not a token"),
        (lambda lines: lines[:300] + lines[301:], "without a gap"),
        (lambda lines: lines[:200], "a byte is missing"),
    ],
)
def test_damaged_ranks_are_reported(change, message, tmp_path):
    content = b"\n".join(change(rank_file().splitlines()))
    with pytest.raises(CheckpointError, match=message):
        legacy_tokenizer(write(tmp_path, "QWenTokenizer", qwen__tiktoken=content))


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"510": dict(content="<sop>")}, "would get the id 501, not the published 510"),
        ({"x": dict(content="<sop>")}, "added_tokens_decoder cannot be read"),
        ({"500": {}}, "added_tokens_decoder cannot be read"),
    ],
)
def test_added_tokens_that_cannot_be_are_reported(added, message, tmp_path):
    config = dict(added_tokens_decoder=added)
    with pytest.raises(CheckpointError, match=message):
        legacy_tokenizer(write(tmp_path, "ChatGLM4Tokenizer", config, tokenizer__model=rank_file()))


def test_a_token_with_two_ids_is_reported(tmp_path):
    config = {**LLAMA_LIKE, "added_tokens_decoder": {"700": dict(content="</s>")}}
    with pytest.raises(CheckpointError, match="'</s>' has two ids"):
        legacy_tokenizer(write(tmp_path, "InternLMTokenizer", config, tokenizer__model=sentencepiece_model()))
