"""A file of tiktoken ranks as a `tokenizers` byte-level BPE: the same ids for the same text.

Each line of the file is a token in base64 and its rank. Source: https://github.com/openai/tiktoken (`load.py`).
"""

import base64
import binascii
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.convert_slow_tokenizer import TikTokenConverter

from vlmtool.utils.errors import CheckpointError


class _Converter(TikTokenConverter):
    """transformers' own, with a reader that needs no tiktoken and says which line is damaged."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        return read_ranks(Path(tiktoken_url))


def word_pattern(most_digits: int) -> str:
    """The regular expression with which GPT-4 and those after it cut a text into words: so many digits at a time.

    Source: `cl100k_base` of https://github.com/openai/tiktoken.
    """
    return (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,{most_digits}}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def tiktoken_tokenizer(
    path: Path, pattern: str, added: dict[int, AddedToken], normalizer: normalizers.Normalizer | None = None
) -> Tokenizer:
    """The tokenizer of a file of ranks.

    Args:
        path: the file.
        pattern: the regular expression that cuts a text into words; no token crosses a cut.
        added: special tokens by id; the ids follow the ranks without a gap.

    Raises:
        CheckpointError: the file is damaged, or the ids leave a gap.
    """
    vocabulary, merges = _Converter().extract_vocab_merges_from_model(str(path))
    # tiktoken looks a whole word up before it merges.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_tokens([added[place] for place in sorted(added)])
    for place, token in added.items():
        if (got := tokenizer.token_to_id(token.content)) != place:
            raise CheckpointError(
                f"{path}: it ends where '{token.content}' would get the id {got}, not the published {place}.\n"
                "Is the file whole, and of this checkpoint? Copy or download it again."
            )
    return tokenizer


def read_ranks(path: Path) -> dict[bytes, int]:
    """Ranks by token, in the order of the file.

    Raises:
        CheckpointError: a line is no token with its rank, a rank comes twice, or a single byte has none.
    """
    ranks: dict[bytes, int] = {}
    remedy = "Is the file whole? Copy or download it again."
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}\n{remedy}") from error
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(f"{path}:{number}: not a token in base64 and its rank.\n{remedy}") from error
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise CheckpointError(f"{path}: its ranks do not run from 0 without a gap, or a byte is missing.\n{remedy}")
    return ranks
