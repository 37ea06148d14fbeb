"""A large data file: its records as a table, its samples counted once by all cores, the counts kept for later runs."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa

from vlmtool.data.conversation import Conversation
from vlmtool.data.dataset import BadSample, ConversationDataset, Look, look_at
from vlmtool.data.formats.json_stream import Record
from vlmtool.data.formats.llava import parse_record, record_id
from vlmtool.data.formats.record_table import RecordTable, Row, RowParser
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.render import Renderer
from vlmtool.utils.errors import DataError
from vlmtool.utils.files import atomic_path
from vlmtool.utils.terminal import track
from vlmtool.utils.workers import num_cores, ordered_map

MOST_WORKERS = 16
COUNTS = pa.schema([("length", pa.int32()), ("supervised", pa.int32()), ("images", pa.int32()), ("cut", pa.int32())])
UNUSABLE = (-1, 0, 0, 0)  # counts of a record that is looked at again in each run, for what is wrong with it


class TableConversations(Sequence[Conversation]):
    """Some records of a table as conversations, each parsed when it is asked for.

    Args:
        rows: of the table, in the order of the conversations; every one unless given.
    """

    def __init__(self, table: RecordTable, image_position: str, rows: np.ndarray | None = None) -> None:
        self.table, self.image_position = table, image_position
        self.rows = np.arange(len(table), dtype=np.int32) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Conversation: ...
    @overload
    def __getitem__(self, place: slice) -> list[Conversation]: ...
    def __getitem__(self, place: int | slice) -> Conversation | list[Conversation]:
        """One conversation, or several.

        Raises:
            DataError: the record cannot be used.
        """
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        return parsed(self.table[int(self.rows[place])], self.image_position)


def parsed(record: Record, image_position: str) -> Conversation:
    """A record as a conversation.

    Raises:
        DataError: it cannot be used.
    """
    if record.error is not None:
        raise record.error
    return parse_record(record.value, record.origin, str(record.number), image_position)


class Looker:
    """Looks at records, in a process of its own.

    Args:
        parse: of the file whose records they are.
        make_renderer: a renderer of this process's own.
        image_folder, max_length: of the data set.
    """

    def __init__(
        self,
        parse: RowParser,
        image_position: str,
        make_renderer: Callable[[], Renderer],
        image_folder: Path,
        max_length: int,
    ) -> None:
        self.parse, self.image_position, self.renderer = parse, image_position, make_renderer()
        self.image_folder, self.max_length = image_folder, max_length

    def __call__(self, rows: Sequence[Row]) -> np.ndarray:
        """`COUNTS` of each, (records, 4)."""
        return np.array([self._look(self.parse(row)) for row in rows], np.int32)

    def _look(self, record: Record) -> tuple[int, int, int, int]:
        try:
            look = look_at(parsed(record, self.image_position), self.renderer, self.image_folder, self.max_length)
        except DataError:
            return UNUSABLE
        return UNUSABLE if look.absent else (look.length, look.num_supervised, look.num_images, look.is_cut)


def count_samples(blocks: Iterator[list[Row]], make_looker: Callable[[], Looker], total: int, told: str) -> pa.Table:
    """`COUNTS` of every record, by all cores.

    Args:
        total: blocks, about.
        told: what stands before their number while they are counted.

    Raises:
        DataError: the file is broken. VlmtoolError: a worker was killed.
    """
    with ordered_map(make_looker, min(num_cores(), MOST_WORKERS)) as run:
        counts = np.concatenate(list(track(run(blocks), total, told)))
    return pa.table(list(counts.T), COUNTS)


def write_counts(counts: pa.Table, file: Path) -> None:
    """Write `counts` whole or not at all."""
    with atomic_path(file) as temporary, pa.ipc.new_file(str(temporary), COUNTS) as out:
        out.write_table(counts)


class LargeDataset(ConversationDataset):
    """Samples whose lengths are known from an earlier run, or from another process of this one.

    Pictures are looked for when the counts are made; later only for those that were missing or broken then.

    Args:
        samples: every record of the file.
        counts: `COUNTS` of each.
        renderer, transform, max_length, bad, name: as of `ConversationDataset`.
    """

    def __init__(
        self,
        samples: TableConversations,
        counts: pa.Table,
        renderer: Renderer,
        transform: ImageTransform,
        max_length: int,
        bad: Sequence[BadSample] | None = None,
        name: str = "",
    ) -> None:
        super().__init__(samples, renderer, transform, max_length, bad, name)
        self.samples, self.counts = samples, counts

    def _looks(self, description: str) -> Iterator[Look | BadSample]:
        columns = [self.counts[name].to_pylist() for name in COUNTS.names]
        for row, (length, supervised, images, is_cut) in enumerate(zip(*columns, strict=True)):
            yield self._look_again(row) if length < 0 else Look(length, supervised, images, bool(is_cut))

    def _look_again(self, row: int) -> Look | BadSample:
        record = self.samples.table[row]
        try:
            conversation = parsed(record, self.samples.image_position)
        except DataError as error:
            return self._bad(record_id(record.value, str(record.number)), record.origin, error)
        return self._look(conversation)

    def _keep(self, numbers: Sequence[int]) -> None:
        every = self.samples
        self.samples = TableConversations(every.table, every.image_position, every.rows[numbers])
        self.conversations = self.samples

    def _origins(self) -> Iterator[str]:
        return self.samples.table.origins(self.samples.rows)
