"""What a checkpoint's side files say of its tokenizer: names of special tokens, added tokens, lengths."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import read_json_object

_KEPT = ("chat_template", "model_max_length", "padding_side", "truncation_side")
_NAMED = ("unk_token", "bos_token", "eos_token", "pad_token")


@dataclass(frozen=True)
class Published:
    """tokenizer_config.json, and config.json where that says nothing."""

    folder: Path
    tokenizer_config: dict[str, Any]
    model_config: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Published":
        """Files that are missing read as empty.

        Raises:
            CheckpointError: one of them is damaged.
        """
        paths = folder / "tokenizer_config.json", folder / "config.json"
        return cls(folder, *(read_json_object(path) if path.is_file() else {} for path in paths))

    @property
    def tokenizer_class(self) -> str | None:
        """Name of the tokenizer's class, wherever it is told."""
        for config in (self.tokenizer_config, self.model_config):
            for named in (config.get("tokenizer_class"), _auto_class(config.get("auto_map"))):
                if isinstance(named, str):
                    return named.rpartition(".")[2].removesuffix("Fast")
        return None

    def named_tokens(self, usual: dict[str, str]) -> dict[str, str]:
        """`bos_token`, `eos_token` and the like; those of `usual` that the file does not name otherwise."""
        told = {name: _content(self.tokenizer_config[name]) for name in _NAMED if name in self.tokenizer_config}
        return {name: content for name, content in {**usual, **told}.items() if content}

    def added_tokens(self) -> dict[int, AddedToken]:
        """The added tokens with their ids, in the order of the ids.

        Raises:
            CheckpointError: an entry is not what transformers writes.
        """
        entries = self.tokenizer_config.get("added_tokens_decoder") or {}
        try:
            return {int(key): _added(entries[key]) for key in sorted(entries, key=int)}
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{self.folder / 'tokenizer_config.json'}: added_tokens_decoder cannot be read: {error}\n"
                "Is the folder whole? Copy or download it again."
            ) from error

    def flag(self, name: str, usual: bool) -> bool:
        """A switch such as `add_bos_token`."""
        told = self.tokenizer_config.get(name)
        return usual if told is None else bool(told)

    def finished(self, tokenizer: Tokenizer, named: dict[str, str]) -> PreTrainedTokenizerFast:
        """The tokenizer as transformers wraps it; it saves and loads as one of transformers' own."""
        kept = {key: self.tokenizer_config[key] for key in _KEPT if self.tokenizer_config.get(key) is not None}
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named, **kept)


def around(tokenizer: Tokenizer, before: list[str], after: list[str]) -> processors.PostProcessor:
    """Puts special tokens before and after a text."""
    first, second = ([f"{token}:{text}" for token in before] for text in (0, 1))
    first_end, second_end = ([f"{token}:{text}" for token in after] for text in (0, 1))
    single = [*first, "$A:0", *first_end]
    return processors.TemplateProcessing(
        single=" ".join(single),
        pair=" ".join([*single, *second, "$B:1", *second_end]),
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(before + after)],
    )


def _auto_class(auto_map: Any) -> Any:
    """The class for AutoTokenizer: a name, or the slow one and the fast one."""
    entry = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else auto_map
    if isinstance(entry, list):
        return next((name for name in entry if name), None)
    return entry


def _content(token: Any) -> str | None:
    """A token that is written as its text, or as an object with its text."""
    return token.get("content") if isinstance(token, dict) else token


def _added(entry: dict[str, Any]) -> AddedToken:
    """An added token; it is looked for in the text as it is, whatever the entry says, as the Python tokenizers do."""
    flags = {name: bool(entry.get(name, False)) for name in ("lstrip", "rstrip", "single_word")}
    return AddedToken(entry["content"], normalized=False, special=bool(entry.get("special", True)), **flags)
