"""ChatGLM2 and ChatGLM3 (SentencePiece) and GLM-4 (tiktoken ranks); a prompt begins with `[gMASK]` and `sop`.

ChatGLM2 and 3 call these two tokens `sop` and `eop`. Here, too, but only where they stand alone, as in
`[gMASK]sop<|user|>`: in `sophisticated` and `people` they are letters.

Source: the files at https://huggingface.co/THUDM/chatglm2-6b, chatglm3-6b and glm-4-9b-chat.
"""

from collections.abc import Sequence

from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

from vlmtool.data.tokenizers.published import Published, around
from vlmtool.data.tokenizers.sentencepiece_fast import pieces_of, sentencepiece_tokenizer
from vlmtool.data.tokenizers.tiktoken_fast import read_ranks, tiktoken_tokenizer, word_pattern

VOCABULARY = "tokenizer.model"
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
# ChatGLM2 has no roles; its prompts do not hold them, and its embedding table has room for them.
_SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", *_ROLES)
_NAMED = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<unk>"}
_GLM4_END = "<|endoftext|>"
_GLM4_MEDIA = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
_GLM4_SPECIAL = (_GLM4_END, "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *_ROLES, *_GLM4_MEDIA)


def chatglm_tokenizer(published: Published) -> PreTrainedTokenizerFast:
    """The tokenizer of a ChatGLM2 or ChatGLM3 folder.

    Raises:
        CheckpointError: a file is damaged, or has no fast form.
    """
    path = published.folder / VOCABULARY
    pieces = pieces_of(path)
    # No two tokens can have one name: where "sop" is an ordinary piece, too, the special one is "<sop>", as in GLM-4.
    names = [f"<{name}>" if name in pieces else name for name in _SPECIAL]
    added = _numbered(names, len(pieces))
    tokenizer = sentencepiece_tokenizer(path, published.added_tokens() | added)
    tokenizer.post_processor = around(tokenizer, before=["[gMASK]", names[_SPECIAL.index("sop")]], after=[])
    return published.finished(tokenizer, published.named_tokens(_NAMED))


def glm4_tokenizer(published: Published) -> PreTrainedTokenizerFast:
    """The tokenizer of a GLM-4 folder, whose `tokenizer.model` is a file of tiktoken ranks.

    Raises:
        CheckpointError: a file is damaged.
    """
    path = published.folder / VOCABULARY
    added = published.added_tokens() or _numbered(_GLM4_SPECIAL, len(read_ranks(path)))
    tokenizer = tiktoken_tokenizer(path, word_pattern(most_digits=3), added)
    prefix = around(tokenizer, before=["[gMASK]", "<sop>"], after=[])
    tokenizer.post_processor = processors.Sequence([tokenizer.post_processor, prefix])
    return published.finished(tokenizer, published.named_tokens({"eos_token": _GLM4_END, "pad_token": _GLM4_END}))


def _numbered(names: Sequence[str], first: int) -> dict[int, AddedToken]:
    """Special tokens with the ids from `first` on. A plain word is one only where it stands alone."""
    return {
        place: AddedToken(name, normalized=False, special=True, single_word=name.isalpha())
        for place, name in enumerate(names, start=first)
    }
