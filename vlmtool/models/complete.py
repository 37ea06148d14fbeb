"""Parts whose weights are all there: transformers makes random ones for those that a folder lacks."""

from collections.abc import Collection
from pathlib import Path

from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import CheckpointError


def check_complete(path: Path, missing: Collection[str]) -> None:
    """See that a part was loaded whole.

    Args:
        missing: names that its config asks for and its files do not have.

    Raises:
        CheckpointError: it was not.
    """
    if missing:
        raise CheckpointError(
            f"{path}: it lacks {counted(len(missing), 'weight')} that its config.json asks for, "
            f"first '{min(missing)}'.\n"
            "The folder is incomplete, or its config.json belongs to another checkpoint: download it again."
        )
