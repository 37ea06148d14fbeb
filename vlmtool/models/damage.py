"""What is missing or broken of weight files, as far as that is seen without loading them."""

import os
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vlmtool.models.fingerprint import WEIGHT_FILES, weight_files
from vlmtool.utils.errors import CheckpointError, message_lines
from vlmtool.utils.files import read_json_object

_REMEDY = "Download the folder again."
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = "pytorch_model.bin.index.json"
_ARCHIVES = (".pth", ".pt", ".bin")  # as torch.save writes them
# The magic number with which torch before 1.6 began its files, as pickle writes it. They have no checksums.
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def missing_shards(folder: Path) -> dict[str, str]:
    """{weight file: index that names it} of a part in several files, for those files that are not there.

    As transformers does, this looks at the index of `.bin` files only where there are no safetensors: many folders are
    downloaded without the `.bin` files that it names.

    Raises:
        CheckpointError: an index cannot be read.
    """
    has_safetensors = any((folder / name).is_file() for name in _SAFETENSORS)
    index = folder / (_SAFETENSORS[1] if has_safetensors else _PICKLED)
    named = {str(name) for name in _weight_map(index).values()} if index.is_file() else set()
    return {name: index.name for name in sorted(named) if not os.path.isfile(folder / name)}


def _weight_map(index: Path) -> dict[str, Any]:
    named = read_json_object(index).get("weight_map")
    if not isinstance(named, dict):
        raise CheckpointError(f"{index}: names no weight files (weight_map).\n{_REMEDY}")
    return named


def damage_of(file: Path, verify: bool = False) -> str | None:
    """Why a weight file cannot be read, as half a sentence: of safetensors and of torch's archives.

    Args:
        verify: read an archive whole, and compare the checksums in it; else its list of contents alone.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="np"):
                return None
        return _damaged_archive(file, verify) if file.suffix in _ARCHIVES else None
    except (SafetensorError, OSError, zipfile.BadZipFile, ValueError, EOFError, RuntimeError) as error:
        return message_lines(error)[0]


def _damaged_archive(file: Path, verify: bool) -> str | None:
    if not zipfile.is_zipfile(file):
        with open(file, "rb") as handle:
            is_old = _OLD_TORCH in handle.read(32)
        is_torch = file.suffix != ".bin" or file.name.startswith(("pytorch_model", "adapter_model"))
        return "it is cut, or no file of torch.save" if is_torch and not is_old else None
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            return "it has compressed entries, which torch.save does not write"
        broken = archive.testzip() if verify else None
    return f"its record '{broken}' does not have the checksum that was written with it" if broken else None


def check_weight_files(folder: Path) -> None:
    """See that a part's weights are all there, and none is cut.

    Raises:
        CheckpointError: they are not; the usual cause is a download that broke off.
    """
    if missing := sorted(missing_shards(folder)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{folder}: weight file '{missing[0]}'{more} is missing.\n{_REMEDY}")
    files = weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder}: holds no weights ({', '.join(WEIGHT_FILES)}).\n{_REMEDY}")
    for file in files:
        if (reason := damage_of(file)) is not None:
            raise CheckpointError(f"{file}: the weights are damaged: {reason}\n{_REMEDY}")
