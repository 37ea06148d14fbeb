"""InternLM, InternLM2 and Xmodel_LM: SentencePiece with the tokens that tokenizer_config.json adds, `<s>` first.

InternLM2 gives names to the last pieces of its model (`<|im_start|>` has the id of a piece that was kept free).
Source: the files at https://huggingface.co/internlm/internlm-chat-7b, internlm2-chat-7b and XiaoduoAILab/Xmodel_LM.
"""

from transformers import PreTrainedTokenizerFast

from vlmtool.data.tokenizers.published import Published, around
from vlmtool.data.tokenizers.sentencepiece_fast import sentencepiece_tokenizer

VOCABULARY = "tokenizer.model"
_NAMED = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def internlm_tokenizer(published: Published) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder with `tokenizer.model`.

    Raises:
        CheckpointError: a file is damaged, or has no fast form.
    """
    named = published.named_tokens(_NAMED)
    tokenizer = sentencepiece_tokenizer(published.folder / VOCABULARY, published.added_tokens())
    tokenizer.post_processor = around(
        tokenizer,
        before=[named["bos_token"]] if published.flag("add_bos_token", usual=True) else [],
        after=[named["eos_token"]] if published.flag("add_eos_token", usual=False) else [],
    )
    return published.finished(tokenizer, named)
