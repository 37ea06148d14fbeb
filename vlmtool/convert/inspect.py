"""What a file or folder is, what it is made of, where it comes from, and whether all of that is still there."""

from pathlib import Path

from vlmtool.convert.inspect_checkpoint import checkpoint_report, run_folder_report
from vlmtool.convert.inspect_folder import model_folder_report
from vlmtool.convert.inspect_foreign import foreign_report
from vlmtool.convert.inspect_part import adapter_report, merged_part_report, plain_part_report
from vlmtool.convert.report import LOOKED_FOR, Report
from vlmtool.models.imports.kind import FILE_ENDS
from vlmtool.models.manifest import FILE_NAME, LINEAGE_NAME, read_lineage, read_manifest, read_part_manifest
from vlmtool.utils.errors import CheckpointError, UsageError
from vlmtool.utils.hub import is_hub_id, local_folder


def inspect_path(path: Path, verify: bool = False) -> Report:
    """Find out what lies at `path`, and compare what it records with what is on this machine.

    Args:
        verify: read and hash every file anew; else hashes are remembered, and files that are large and were never
            hashed here are not read.

    Raises:
        UsageError: nothing is there, or nothing that vlmtool knows.
        CheckpointError: what says what it is cannot be read.
    """
    try:
        return _inspect(path.parent if path.name in (FILE_NAME, LINEAGE_NAME) else path, verify)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CheckpointError(f"{error.filename or path}: cannot be read: {reason}.\nMay you read it?") from error


def _inspect(path: Path, verify: bool) -> Report:
    if path.is_file():
        if path.suffix not in FILE_ENDS:
            raise UsageError(f"PATH: '{path}' is no checkpoint ({', '.join(FILE_ENDS)}).\n{LOOKED_FOR}")
        return foreign_report(path, verify) or checkpoint_report(path, path, verify)
    if not path.is_dir() and not path.parent.is_dir() and is_hub_id(str(path)):
        path = local_folder(str(path), "PATH")
    if not path.is_dir():
        raise UsageError(f"PATH: there is no file or folder '{path}'.\nCheck the path.")
    if (manifest := read_manifest(path) or read_lineage(path)) is not None:
        return model_folder_report(path, manifest, verify)
    if (part_manifest := read_part_manifest(path)) is not None:
        return merged_part_report(path, part_manifest, verify)
    if (report := foreign_report(path, verify)) is not None:
        return report
    if (path / "adapter_config.json").is_file():
        return adapter_report(path, verify)
    if (path / "config.json").is_file():
        return plain_part_report(path, verify)
    return run_folder_report(path, verify)
