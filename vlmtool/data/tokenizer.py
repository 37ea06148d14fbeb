"""The LLM's tokenizer with the image tag as one token."""

from pathlib import Path

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from vlmtool.data.tokenizers.find import legacy_tokenizer
from vlmtool.utils.errors import CheckpointError, message_lines
from vlmtool.utils.files import read_json
from vlmtool.utils.folder_kind import other_than_model
from vlmtool.utils.remote_code import ALLOW, needs_remote_code

IMAGE_TAG = "<image>"


def load_tokenizer(path: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, with `<image>` as one special token.

    Some checkpoints ship theirs as Python code only; those that are known are built without it.

    The token's id may lie outside the LLM's vocabulary: it never reaches the embedding table, because image
    embeddings stand in its place. So the LLM's weights stay as they are.

    Raises:
        CheckpointError: there is no tokenizer, it gives no character offsets (needed to mark answers), or it needs code
            of its own that was not allowed.
    """
    tokenizer = legacy_tokenizer(path) or _auto_tokenizer(path, trust_remote_code)
    if not tokenizer.is_fast:
        raise CheckpointError(f"{path}: its tokenizer has no fast (tokenizers) form, which vlmtool needs.")
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _processor_template(path)
    tokenizer.add_tokens([AddedToken(IMAGE_TAG, normalized=False, special=True)], special_tokens=True)
    return tokenizer


def _processor_template(path: Path) -> str | None:
    """The chat template that older processors of transformers keep in a file of its own; None where there is none."""
    try:
        said = read_json(path / "chat_template.json")
    except (OSError, ValueError):
        return None
    template = said.get("chat_template") if isinstance(said, dict) else None
    return template if isinstance(template, str) else None


def _auto_tokenizer(path: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        if needs_remote_code(error):
            raise CheckpointError(
                f"{path}: its tokenizer needs code of its own, which was not run.\n"
                f"Use a checkpoint with a tokenizer of transformers, or allow the code: {ALLOW}."
            ) from error
        if other := other_than_model(path):
            raise CheckpointError(f"{path}: this is {other.what}, not a language model.\n{other.remedy}") from error
        reason = message_lines(error)[0]
        # transformers lists what it tried in further lines, none of which says what is wrong with the folder.
        told = "there is none that transformers can read." if reason.endswith(":") else reason
        raise CheckpointError(f"{path}: its tokenizer cannot be loaded: {told}\nIs tokenizer.json there?") from error


def image_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the image tag."""
    return tokenizer.convert_tokens_to_ids(IMAGE_TAG)
