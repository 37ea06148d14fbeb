"""Where a conversion writes: a new folder, or one that a conversion wrote before. Nothing else is ever replaced."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from fnmatch import fnmatch
from pathlib import Path

from vlmtool.models.manifest import CARD_NAME, FILE_NAME, LINEAGE_NAME, read_lineage, read_manifest, read_part_manifest
from vlmtool.utils.errors import CheckpointError, UsageError
from vlmtool.utils.files import atomic_path, leftovers, remove

TOKENIZER_FILES = (
    "tokenizer*.json", "tokenizer.model", "chat_template.jinja", "chat_template.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.tiktoken",
)  # fmt: skip
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


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
    if (file := next((parent for parent in target.parents if parent.is_file()), None)) is not None:
        raise UsageError(f"SAVE_PATH: '{save_path}' would lie in '{file}', which is a file.\nGive another folder.")
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"SAVE_PATH: '{save_path}' is a file.\nGive a folder that is not there yet.")
    if foreign := sorted(_names(target) - _written(target)):
        raise UsageError(
            f"SAVE_PATH: '{save_path}' holds '{foreign[0]}', which `vlmtool convert` did not write there.\n"
            "Nothing was touched; give a folder that is not there yet."
        )


def new_folder(save_path: Path) -> AbstractContextManager[Path]:
    """`atomic_path`, once what killed conversions to the same place have left is removed.

    A number of a process says nothing of other machines: two of them do not convert to one place at a time.
    """
    for folder in leftovers(save_path):
        remove(folder)
    return atomic_path(save_path)


def _names(folder: Path) -> set[str]:
    """Everything below a folder but its sub-folders."""
    below = (entry for entry in folder.rglob("*") if entry.is_symlink() or not entry.is_dir())
    return {entry.relative_to(folder).as_posix() for entry in below}


def _written(folder: Path) -> set[str]:
    """What the manifest of a folder says was written into it; nothing where there is none to read."""
    try:
        manifest = read_manifest(folder) or read_part_manifest(folder) or read_lineage(folder)
    except CheckpointError:
        return set()
    return {*manifest.files, FILE_NAME, LINEAGE_NAME, CARD_NAME} if manifest is not None else set()
