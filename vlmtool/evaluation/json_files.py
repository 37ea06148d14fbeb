"""JSON files of others: what is broken is an error that names file and line."""

import json
from pathlib import Path
from typing import Any

from vlmtool.utils.errors import DataError


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it is not JSON, or not UTF-8.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}). Download the file again.") from error


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
