"""The tensors of a part's weight files, memory-mapped, whatever their names."""

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vlmtool.models.checkpoint import safe_load
from vlmtool.models.damage import missing_shards
from vlmtool.utils.errors import CheckpointError, message_lines
from vlmtool.utils.files import read_json_object

# A single file and the index of several, in the order in which transformers looks for them.
_KINDS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything in the part's weight files, on the CPU.

    Raises:
        CheckpointError: a file is missing, damaged, or holds more than tensors.
    """
    if missing := sorted(missing_shards(folder)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{folder}: weight file '{missing[0]}'{more} is missing.\nDownload the folder again.")
    for file in _files(folder):
        yield from read_file(file)


def read_file(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything in one weight file.

    Raises:
        CheckpointError: it is missing, damaged, or holds more than tensors.
    """
    return _of_safetensors(file) if file.suffix == ".safetensors" else _of_pickle(file)


def _files(folder: Path) -> list[Path]:
    for single, index in _KINDS:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            named = read_json_object(folder / index)["weight_map"].values()
            return [folder / name for name in sorted({str(name) for name in named})]
    raise CheckpointError(
        f"{folder}: holds none of {', '.join(name for kind in _KINDS for name in kind)}.\nDownload the folder again."
    )


def _of_safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118, it is no mapping
                yield name, content.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: the weights are damaged: {message_lines(error)[0]}\nDownload the file again."
        ) from error


def _of_pickle(file: Path) -> Iterator[tuple[str, Tensor]]:
    content = safe_load(file)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds no weights by name.\nDownload the file again.")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{file}: '{name}' is no tensor.\nDownload the file again.")
        yield str(name), value
