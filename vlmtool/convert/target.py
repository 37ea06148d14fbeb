"""Where a conversion writes: a new folder, or one that a conversion wrote before. Nothing else is ever replaced."""

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from vlmtool.models.manifest import FILE_NAME
from vlmtool.utils.errors import UsageError

PART_FOLDERS = ("llm", "llm_adapter", "visual_encoder", "visual_encoder_adapter", "projector")
TOKENIZER_FILES = (
    "tokenizer*.json", "tokenizer.model", "chat_template.jinja", "chat_template.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.tiktoken",
)  # fmt: skip
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_WRITTEN = (
    *PART_FOLDERS, *TOKENIZER_FILES, *PROCESSOR_FILES, FILE_NAME, "config.json", "generation_config.json",
    "model*.safetensors", "model.safetensors.index.json",
)  # fmt: skip


def matches(name: str, patterns: Iterable[str]) -> bool:
    """`name` is of one of the `patterns`."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def check_target(save_path: Path, sources: Iterable[Path]) -> None:
    """Refuse a folder whose replacement would lose something.

    Args:
        sources: what the conversion reads; none of it may lie inside `save_path`.

    Raises:
        UsageError: `save_path` is a file, holds a source, or holds what no conversion wrote.
    """
    target = save_path.resolve()
    for source in sources:
        if source.resolve().is_relative_to(target):
            raise UsageError(f"SAVE_PATH: '{save_path}' holds '{source}', which is read.\nGive another folder.")
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"SAVE_PATH: '{save_path}' is a file.\nGive a folder that is not there yet.")
    names = sorted(entry.name for entry in target.iterdir())
    foreign = [name for name in names if not matches(name, _WRITTEN)]
    if names and (foreign or FILE_NAME not in names):
        held = f"'{foreign[0]}'" if foreign else f"no {FILE_NAME}"
        raise UsageError(
            f"SAVE_PATH: '{save_path}' holds {held}: it is not (only) what `vlmtool convert` wrote.\n"
            "Nothing was touched; give a folder that is not there yet."
        )
