"""Small vocabulary files, trained here, and the side files that are published around them."""

import base64
import io
import json
import random
import re
from functools import cache

import tiktoken
from sentencepiece import SentencePieceTrainer, sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import bytes_to_unicode

WORDS = ["the", "picture", "shows", "red", "circle", "two", "dogs", "it's", "people", "sophisticated", "1234", "aaaa"]
WORDS += ["图片", "显示", "一个", "红色", "圆形", "在", "狗", "上面", "。", "，"]
WORDS += ["été", "User", "Bot", "mnmn", "\n", "  "]
PARTS = [*WORDS, *"abemnt.'<|>:0129 \t\n▁한ｆﬁا\u3000\xa0\u200b", "中文", "e\u0301", "qzxj", "🙂", "👨‍👩‍👧"]
ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_PATTERN, GLM4_PATTERN = ENGLISH + r"\p{N}" + REST, ENGLISH + r"\p{N}{1,3}" + REST
SP_OPTIONS = {
    "bytes": {},
    "no prefix": dict(add_dummy_prefix=False),
    "nfkc": dict(normalization_rule_name="nmt_nfkc"),
    "nfkc, spaces removed": dict(normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True),
    "spaces removed": dict(remove_extra_whitespaces=True),
    "digits together": dict(split_digits=False),
    "words joined": dict(split_by_whitespace=False),
    "no bytes": dict(byte_fallback=False),
    "symbols": dict(user_defined_symbols=["<eoh>", "<eoa>", "ab"]),
    "symbols, no prefix": dict(user_defined_symbols=["<eoh>", "<eoa>", "ab"], add_dummy_prefix=False),
}  # fmt: skip


def sentences(seed):
    rows = random.Random(seed)
    return [rows.choice([" ", ""]).join(rows.choices(WORDS, k=12)) for _ in range(1200)]


def texts(*more):
    """Texts of every kind, and random ones in which the parts `more` turn up, too."""
    rows = random.Random(1)
    fixed = [
        "",
        " ",
        "   ",
        "\n",
        "\n\n",
        "\t\ta",
        "Hello, world!",
        "你好，世界",
        "  both ends  ",
        "a\n \n b",
        "x = 12345678",
    ]
    fixed += [
        "🙂🙂",
        "ꙮ ᚠᛇᚻ ሰማይ",
        "▁",
        "▁a▁ b",
        "aaaaaaa aaaaa",
        "It'S WE'LL",
        "\u0301e",
        "\x00\x7f",
        "C'est l'été — 中文 ok",
    ]
    return fixed + ["".join(rows.choices([*PARTS, *more], k=rows.randint(1, 25))) for _ in range(400)]


@cache
def sentencepiece_model(name="bytes"):
    usual = dict(
        vocab_size=700, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, character_coverage=0.999, minloglevel=2,
    )  # fmt: skip
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(0)), model_writer=written, **{**usual, **SP_OPTIONS[name]}
    )
    return written.getvalue()


def changed(model, change):
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    change(proto)
    return proto.SerializeToString()


@cache
def ranks():
    """Byte-level BPE, trained here: bytes first, then what each merge makes; last a word that no merge makes."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(GLM4_PATTERN), "isolated")  # so there are tokens of several digits
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        sentences(2), trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    vocabulary = tokenizer.get_vocab()
    return {bytes(map(byte_of.get, token)): rank for token, rank in vocabulary.items()} | {b"qzxj": len(vocabulary)}


def rank_file():
    rows = sorted(ranks().items(), key=lambda row: row[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in rows)


def write(folder, tokenizer_class, config=None, **files):
    """A checkpoint's side files, as published."""
    folder.mkdir(exist_ok=True)
    module = {"InternLMTokenizer": "internlm", "InternLM2Tokenizer": "internlm2", "QWenTokenizer": "qwen"}
    slow = f"tokenization_{module.get(tokenizer_class, 'chatglm')}.{tokenizer_class}"
    told = {"tokenizer_class": tokenizer_class, "auto_map": {"AutoTokenizer": [slow, None]}, **(config or {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


LLAMA_LIKE = dict(bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>")


def internlm(folder, model):
    return write(folder, "InternLMTokenizer", LLAMA_LIKE, tokenizer__model=model)


def internlm2(folder, kind=4):
    """Its last six pieces are kept free; tokenizer_config.json gives them their names."""

    def keep_free(proto):
        for number in range(141, 147):
            proto.pieces.add(piece=f"[UNUSED_TOKEN_{number}]", score=0.0, type=kind)

    names = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
    flags = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    every = {0: "<unk>", 1: "<s>", 2: "</s>"} | dict(enumerate(names, start=700))
    added = {str(place): {"content": name, **flags} for place, name in every.items()}
    model = changed(sentencepiece_model(), keep_free)
    config = {**LLAMA_LIKE, "added_tokens_decoder": added}
    return write(folder, "InternLM2Tokenizer", config, tokenizer__model=model), every, model


def glm(folder, **config):
    return write(folder, "ChatGLMTokenizer", config, tokenizer__model=sentencepiece_model())


ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
GLM_SPECIAL = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "<eop>", *ROLES]  # the model has a piece "eop", of "people"
GLM4_SPECIAL = [
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    *ROLES,
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
]
GLM4_SPECIAL += ["<|end_of_video|>"]
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205))]


def encoding(pattern, special):
    names = {token: place for place, token in enumerate(special, start=len(ranks()))}
    return tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=ranks(), special_tokens=names)


def by_parts(processor, special, text):
    """Ids where special tokens are cut out first, as transformers' Python tokenizers do."""
    ids = {name: place for place, name in special.items()}
    cut = re.split("(" + "|".join(map(re.escape, ids)) + ")", text)
    return [token for part in cut for token in ([ids[part]] if part in ids else processor.encode(part))]


def plain(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


MAKE = {
    "internlm": lambda folder: internlm(folder, sentencepiece_model("symbols")),
    "internlm2": lambda folder: internlm2(folder)[0],
    "chatglm": glm,
    "glm4": lambda folder: write(folder, "ChatGLM4Tokenizer", tokenizer__model=rank_file()),
    "qwen": lambda folder: write(folder, "QWenTokenizer", qwen__tiktoken=rank_file()),
}
