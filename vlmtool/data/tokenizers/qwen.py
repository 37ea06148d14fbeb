"""Qwen, the first one: tiktoken ranks, special tokens behind them, no BOS.

Source: https://github.com/QwenLM/Qwen/blob/main/tokenization_note.md and the files at
https://huggingface.co/Qwen/Qwen-7B-Chat. The image tags of Qwen-VL are not among its tokens.
"""

from tokenizers import AddedToken, normalizers
from transformers import PreTrainedTokenizerFast

from vlmtool.data.tokenizers.published import Published
from vlmtool.data.tokenizers.tiktoken_fast import read_ranks, tiktoken_tokenizer, word_pattern

VOCABULARY = "qwen.tiktoken"
_END = "<|endoftext|>"
_SPECIAL = (_END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))


def qwen_tokenizer(published: Published) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder with `qwen.tiktoken`.

    Raises:
        CheckpointError: a file is damaged.
    """
    path = published.folder / VOCABULARY
    first = len(read_ranks(path))
    added = {first + place: AddedToken(token, normalized=False, special=True) for place, token in enumerate(_SPECIAL)}
    tokenizer = tiktoken_tokenizer(path, word_pattern(most_digits=1), added, normalizers.NFC())
    return published.finished(tokenizer, published.named_tokens({"eos_token": _END}))
