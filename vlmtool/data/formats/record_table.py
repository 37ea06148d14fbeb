"""The records of a large file as an Arrow table: parsed once, then read through a memory map that processes share.

Source of the format: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
"""

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa

from vlmtool.data.formats.file_head import no_records
from vlmtool.data.formats.json_stream import Record, is_array, origin_of, read_blocks
from vlmtool.utils.errors import DataError
from vlmtool.utils.files import atomic_path

SCHEMA = pa.schema([("number", pa.int64()), ("value", pa.string()), ("error", pa.string())])
"""Of the line or record; its JSON, or null and what was wrong with it."""

TOGETHER = 1000  # records in a block of a table that is there already

Row = tuple[int, str | None, str | None]
"""Of a table, as `SCHEMA` has it."""


class RowParser:
    """Makes records of rows, also in another process.

    Args:
        source: whose records they are, for messages.
    """

    def __init__(self, source: Path) -> None:
        self.source, self.in_array = source, is_array(source)

    def __call__(self, row: Row) -> Record:
        """The record; a line that was no JSON has its error."""
        number, value, error = row
        origin = origin_of(self.source, number, self.in_array)
        if error is not None:
            return Record(origin, number, None, DataError(error.replace(_PLACE, origin)))
        return Record(origin, number, json.loads(value or ""), text=value)


class RecordTable(Sequence[Record]):
    """Records of `source`, each parsed when it is asked for.

    Args:
        file: as `written` makes it.
        source: whose records they are, for messages.
    """

    def __init__(self, file: Path, source: Path) -> None:
        self.file, self.parse = file, RowParser(source)
        self._table = read_arrow(file)

    def __reduce__(self) -> tuple[type["RecordTable"], tuple[Path, Path]]:
        return RecordTable, (self.file, self.parse.source)  # another process maps the file itself

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, row: int) -> Record: ...
    @overload
    def __getitem__(self, row: slice) -> list[Record]: ...
    def __getitem__(self, row: int | slice) -> Record | list[Record]:
        """One record, or those of some rows."""
        if isinstance(row, slice):
            first, stop, step = row.indices(len(self))
            return [self.parse(one) for one in self._rows(first, stop)[::step]]
        number, value, error = (self._table[name][row].as_py() for name in SCHEMA.names)
        return self.parse((number, value, error))

    def blocks(self) -> Iterator[list[Row]]:
        """All rows, some at a time; none is parsed."""
        return (self._rows(first, first + TOGETHER) for first in range(0, len(self), TOGETHER))

    def _rows(self, first: int, stop: int) -> list[Row]:
        return list(zip(*(self._table[name][first:stop].to_pylist() for name in SCHEMA.names), strict=True))

    def origins(self, rows: np.ndarray) -> Iterator[str]:
        """Where the records of some rows stand; none is parsed."""
        numbers = self._table["number"].to_numpy()[rows]
        return (origin_of(self.parse.source, number, self.parse.in_array) for number in numbers.tolist())


def read_arrow(file: Path) -> pa.Table:
    """The table of a file, through a memory map.

    Raises:
        DataError: it is damaged.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: the table is damaged: {error}\nDelete it: the next run writes it anew.") from error


_PLACE = "\0"  # stands for the record's place: the file may have moved since


def written(source: Path, file: Path) -> Iterator[list[Row]]:
    """Rows of `source` in blocks, each of which is in the table once it is yielded.

    `file` is there, whole, when the last one was drawn; where that never comes to pass, there is none.

    Raises:
        UsageError: there is no such file. DataError: it holds no record, or is broken. OSError: it cannot be written.
    """
    filled = (block for block in read_blocks(source) if block)
    first = next(filled, None)
    if first is None:
        raise no_records(source)
    with atomic_path(file) as temporary, pa.ipc.new_file(str(temporary), SCHEMA) as out:
        for block in chain([first], filled):
            rows = [_row(record) for record in block]
            out.write_batch(pa.record_batch([list(column) for column in zip(*rows, strict=True)], SCHEMA))
            yield rows


def _row(record: Record) -> Row:
    if record.error is not None:
        return record.number, None, str(record.error).replace(record.origin, _PLACE)
    return record.number, record.text, None
