"""From a folder to the builder of its tokenizer."""

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from vlmtool.data.tokenizers import chatglm, internlm, qwen
from vlmtool.data.tokenizers.published import Published
from vlmtool.utils.errors import CheckpointError

Builder = Callable[[Published], PreTrainedTokenizerFast]
# The vocabulary file, and what builds the tokenizer from it.
_INTERNLM = internlm.VOCABULARY, internlm.internlm_tokenizer
_QWEN = qwen.VOCABULARY, qwen.qwen_tokenizer
_CHATGLM = chatglm.VOCABULARY, chatglm.chatglm_tokenizer
_GLM4 = chatglm.VOCABULARY, chatglm.glm4_tokenizer
_BY_CLASS: dict[str, tuple[str, Builder]] = {
    "internlmtokenizer": _INTERNLM,
    "internlm2tokenizer": _INTERNLM,
    "xmodeltokenizer": _INTERNLM,
    "qwentokenizer": _QWEN,
    "chatglmtokenizer": _CHATGLM,
    "chatglm4tokenizer": _GLM4,
}
# For a folder that does not tell the class of its tokenizer.
_BY_MODEL = {"internlm": _INTERNLM, "internlm2": _INTERNLM, "xmodel": _INTERNLM, "xmodelvlm": _INTERNLM, "qwen": _QWEN}


def legacy_tokenizer(folder: Path) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a checkpoint that ships its own only as Python code, built without running that code.

    None where the folder's tokenizer is none of these, or its vocabulary file is missing.

    Raises:
        CheckpointError: its vocabulary or its added tokens are damaged, or have no fast (tokenizers) form.
    """
    try:
        published = Published.read(folder)
    except CheckpointError:
        return None  # transformers will say what is wrong with it
    named = published.tokenizer_class
    family = _BY_CLASS.get(named.lower()) if named else _BY_MODEL.get(str(published.model_config.get("model_type")))
    if family is None or not (folder / family[0]).is_file():
        return None
    return family[1](published)
