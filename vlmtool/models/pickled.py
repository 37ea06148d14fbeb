"""What a file of `torch.save` may ask for. `weights_only` runs no code of it; here it cannot fill the memory either.

torch allows some calls that make a file of a few bytes take any amount of memory: `bytearray(10**12)`, a tensor whose
single number is repeated a million million times, compressed entries. So the names are read before anything is built.
"""

import pickletools
import re
import zipfile
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmtool.utils.errors import CheckpointError

# Dense tensors, their storages and types, and plain values.
_TENSORS = re.compile(
    r"torch\._utils\._rebuild_(tensor_v[23]|parameter)|torch\.(\w+Storage|bool|bfloat16|(float|u?int|complex)\d\w*)"
    r"|torch\.storage\.UntypedStorage|torch\.(Size|device)|collections\.OrderedDict|builtins\.(set|complex)"
)
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # torch.save writes the names of old


def refused_name(path: Path, allowed: Collection[str] = ()) -> str | None:
    """The first global that the file asks for and that is neither of tensors nor in `allowed`; nothing is imported.

    Raises:
        ValueError: not a file as torch.save writes it.
    """
    names = pickled_names(_pickle_of(path))
    return next((name for name in names if name not in allowed and not _TENSORS.fullmatch(name)), None)


def check_pickled_weights(folder: Path) -> None:
    """See that the `pytorch_model*.bin` of a part, which transformers will read, ask for nothing but tensors.

    Raises:
        CheckpointError: one asks for more, or is damaged.
    """
    for file in sorted(folder.glob("pytorch_model*.bin")):
        if not zipfile.is_zipfile(file):  # from before torch 1.6: transformers reads it with weights_only too
            continue
        try:
            refused = refused_name(file)
        except ValueError as error:
            raise CheckpointError(f"{file}: the file is damaged: {error}.\nDownload it again.") from error
        if refused is not None:
            raise CheckpointError(f"{file}: {asks_for(refused)}")


def asks_for(name: str) -> str:
    """The rest of an error about a file that asks for the global `name`."""
    return (
        f"refused, it holds pickled objects beside tensors: it asks for '{name}'.\n"
        "It is damaged or unsafe; only load files whose origin you know."
    )


def pickled_names(content: bytes) -> Iterator[str]:
    """Dotted names of the globals that a pickle asks for, in its order.

    Raises:
        ValueError: not a pickle.
    """
    texts = deque(["", ""], maxlen=2)  # those before STACK_GLOBAL are module and name
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            yield f"{_PYTHON_2.get(module, module)}.{name}"
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts)
        elif operation.name.startswith("EXT"):
            yield f"copyreg extension {argument}"
        elif isinstance(argument, str):
            texts.append(argument)


def _pickle_of(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("it has compressed entries, which torch.save does not write")
            pickles = [entry for entry in entries if entry.filename.lower().endswith("data.pkl")]
            if len(pickles) != 1:
                raise ValueError(f"it has {len(pickles)} entries 'data.pkl' instead of one")
            return archive.read(pickles[0])
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"not a zip file of torch.save ({error})") from error


def check_tensors(content: Any) -> None:
    """See that every tensor in `content` is as large as it says.

    Raises:
        ValueError: one repeats a few numbers up to any size, or has none.
    """
    left, seen = [content], set()
    while left:
        value = left.pop()
        if id(value) in seen:  # values may be shared, or hold themselves
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            left += value
        elif isinstance(value, Tensor):
            _check_tensor(value)


def _check_tensor(value: Tensor) -> None:
    if value.layout != torch.strided or value.device.type == "meta":
        raise ValueError(f"a tensor of {tuple(value.shape)} is not stored number by number")
    said, stored = value.numel() * value.element_size(), value.untyped_storage().nbytes()
    if said > stored:
        raise ValueError(f"a tensor of {tuple(value.shape)} would take {said:,} bytes, of which it holds {stored:,}")
