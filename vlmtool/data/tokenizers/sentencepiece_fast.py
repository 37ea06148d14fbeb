"""A SentencePiece BPE model as a `tokenizers` one: the same ids for the same text, with character offsets.

How it normalizes a text stands in the model file and is taken from there. Source: SentencePiece's model file and
library, https://github.com/google/sentencepiece (`sentencepiece_model.proto`, `normalizer.cc`, `bpe_model.cc`).

Known differences from the library:
- Special tokens written in a text are read as such; the library reads them as letters. The text between two of them
  is tokenized on its own, with a dummy prefix, as the published Python tokenizers do.
- A text that is one user-defined symbol and nothing else has no dummy prefix: it is that one token.
- Where a model has rules of normalization (`nmt_nfkc` and its kin), a character that they change loses the combining
  marks behind it: `tokenizers` applies the rules to a letter and its marks at once. Models without rules keep all.
- An unknown character, in a model without byte fallback, is decoded as the unknown token, in the library as `⁇`.
- The ▁ with which a text itself begins is decoded as a space; the library drops it where it removes extra spaces.
"""

import random
import re
import unicodedata
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from transformers.convert_slow_tokenizer import generate_merges

from vlmtool.utils.errors import CheckpointError

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # SentencePiece.Type of the proto
_BPE = 2  # TrainerSpec.ModelType
_PROBES = 200


def sentencepiece_tokenizer(path: Path, added: dict[int, AddedToken]) -> Tokenizer:
    """The tokenizer of a `tokenizer.model`; it is compared with the library before it is given out.

    Args:
        path: the model file.
        added: tokens by id. One whose id is a piece's takes that piece's place, the others come behind the pieces.

    Raises:
        CheckpointError: the file is no SentencePiece BPE model, or does what `tokenizers` cannot do.
    """
    proto, library = _read_model(path)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=_vocabulary(path, proto, added),
            merges=_merges(path, proto, added),
            unk_token=proto.trainer_spec.unk_piece,
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    )
    pieces = [(piece.piece, piece.type) for place, piece in enumerate(proto.pieces) if place not in added]
    symbols = [piece for piece, kind in pieces if kind == _USER_DEFINED]
    tokenizer.normalizer = _normalizer(proto.normalizer_spec, symbols)
    tokenizer.decoder = _decoder(proto)
    # Symbols are cut out after the text has got its dummy prefix, as the library does.
    tokenizer.add_tokens([AddedToken(symbol, normalized=True, special=False) for symbol in symbols])
    _compare(path, library, [piece for piece, kind in pieces if kind == _NORMAL], tokenizer)
    control = [AddedToken(piece, normalized=False, special=True) for piece, kind in pieces if kind == _CONTROL]
    tokenizer.add_tokens([*control, *added.values()])
    return tokenizer


def pieces_of(path: Path) -> list[str]:
    """The pieces of a `tokenizer.model`; each one's place is its id.

    Raises:
        CheckpointError: the file is no SentencePiece BPE model, or does what `tokenizers` cannot do.
    """
    return [piece.piece for piece in _read_model(path)[0].pieces]


def _read_model(path: Path) -> tuple[Any, SentencePieceProcessor]:
    """What the file says, and the library's tokenizer."""
    try:
        library = SentencePieceProcessor(model_proto=path.read_bytes())
        proto = sentencepiece_model_pb2.ModelProto.FromString(library.serialized_model_proto())
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a SentencePiece model: {error}\nIs the file whole? Copy or download it again."
        ) from error
    spec = proto.normalizer_spec
    if not proto.pieces or proto.trainer_spec.model_type != _BPE:
        raise _unsuited(path, "it is no SentencePiece BPE model")
    if proto.trainer_spec.treat_whitespace_as_suffix or not spec.escape_whitespaces:
        raise _unsuited(path, "it writes spaces in another way than ▁ before a word")
    return proto, library


def _unsuited(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: no fast (tokenizers) form of it can be built: {reason}.\n"
        "Put a tokenizer.json of the same checkpoint beside it, with tokenizer_class PreTrainedTokenizerFast."
    )


def _vocabulary(path: Path, proto: Any, added: dict[int, AddedToken]) -> dict[str, int]:
    """Ids by piece, the added tokens among them."""
    names = {place: piece.piece for place, piece in enumerate(proto.pieces)}
    names |= {place: token.content for place, token in added.items()}
    vocabulary = {name: place for place, name in names.items()}
    if len(vocabulary) < len(names):
        twice = next(name for place, name in names.items() if vocabulary[name] != place)
        raise CheckpointError(
            f"{path}: the token '{twice}' has two ids, one in the model and one in tokenizer_config.json.\n"
            "Correct added_tokens_decoder there."
        )
    return vocabulary


def _merges(path: Path, proto: Any, added: dict[int, AddedToken]) -> list[tuple[str, str]]:
    """Pairs that become one piece, the first to be merged first.

    Bytes, control tokens, user-defined symbols and added tokens are never joined with what stands beside them.
    """
    places = (place for place in range(len(proto.pieces)) if place not in added)
    joined = [proto.pieces[place] for place in places if proto.pieces[place].type in (_NORMAL, _UNUSED)]
    pieces = {piece.piece: place for place, piece in enumerate(joined)}
    merges = generate_merges(pieces, {piece.piece: piece.score for piece in joined})
    unused = {piece.piece for piece in joined if piece.type == _UNUSED}
    if unused and any(left + right in unused for left, right in merges):
        raise _unsuited(path, "it takes tokens that it does not use apart again")
    return merges


def _normalizer(spec: Any, symbols: list[str]) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
        if symbols:
            # `tokenizers` normalizes a symbol, too, before it looks for it in texts: there the prefix must go again.
            alone = "|".join(re.escape(symbol) for symbol in symbols)
            steps.append(normalizers.Replace(Regex(rf"\A▁(?=(?:{alone})\z)"), ""))
    steps.append(normalizers.Replace(" ", "▁"))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"▁+\z"), ""))  # a "▁" of the text itself, too
    return normalizers.Sequence(steps)


def _decoder(proto: Any) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    return decoders.Sequence(steps)


def _compare(path: Path, library: SentencePieceProcessor, pieces: list[str], tokenizer: Tokenizer) -> None:
    """Tokenize random rows of pieces with the library, too; only rows that no rule of normalization changes.

    Raises:
        CheckpointError: other ids came out: the model's scores do not say in which order it merges.
    """
    rows = random.Random(0)
    texts = ["".join(rows.choices(pieces, k=20)).replace("▁", " ") for _ in range(_PROBES)] if pieces else []
    texts = [text for text in texts if unicodedata.is_normalized("NFKC", text)]
    results = tokenizer.encode_batch(texts, add_special_tokens=False)
    wrong = sum(result.ids != ids for result, ids in zip(results, library.encode(texts), strict=True))
    if wrong:
        raise _unsuited(path, f"{wrong} of {len(texts)} random texts get other ids than from sentencepiece")
