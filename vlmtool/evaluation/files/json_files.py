"""JSON files of others: what is broken is an error that names file and line."""

import json
from pathlib import Path
from typing import Any

from vlmtool.utils.errors import DataError


def read_json(path: Path, unique_names: bool = False) -> Any:
    """The content of a JSON file.

    Args:
        unique_names: an object that has a name twice is an error; else the last one counts.

    Raises:
        DataError: it is not JSON, or not UTF-8.
    """
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_unique if unique_names else None)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}). Download the file again.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{twice}' stands there twice")
    return content


def read_json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not empty.

    Raises:
        DataError: a line is no JSON object.
    """
    entries = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON ({error}). Each line is one JSON object.") from error
        if not isinstance(entry, dict):
            raise DataError(f"{path}:{number}: not a JSON object. Each line is one, {{…}}.")
        entries.append((number, entry))
    return entries


def field_of(entry: Any, name: str, where: str) -> str:
    """A field that must be there, as text.

    Raises:
        DataError: it is not, or it is no text or number.
    """
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise DataError(f"{where}: no '{name}', or none that is text or a number. Download the file again.")
    return str(value)
