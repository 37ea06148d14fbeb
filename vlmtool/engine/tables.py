"""Tables of large data files: which files have one, where, and what it depends on."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa

import vlmtool
from vlmtool.data.formats.json_stream import num_blocks
from vlmtool.data.formats.record_table import RecordTable, RowParser, read_arrow, written
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.large import Looker, TableConversations, count_samples, write_counts
from vlmtool.data.render import Renderer
from vlmtool.data.views import preparation
from vlmtool.models.fingerprint import file_hashes
from vlmtool.recipe.schema import DataSet, Recipe
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import leftovers, one_at_a_time, remove

LARGE = 64 << 20  # bytes, some 40,000 records: what is smaller is read in less time than it takes to load torch
COUNTING = 1  # to be raised where samples come to be made or counted otherwise
NAME = 16  # characters of a hash in a file's name


def is_large(given: DataSet) -> bool:
    """Whether a set's file is read through a table."""
    path = Path(given.path)
    return path.is_file() and path.stat().st_size > LARGE


def open_large(
    recipe: Recipe, given: DataSet, renderer: Renderer, transform: ImageTransform
) -> tuple[TableConversations, pa.Table]:
    """The records of a set, and the counts of its samples; both are made where no run did so before.

    Raises:
        UsageError: they cannot be written. DataError: the file is broken. VlmtoolError: a worker was killed.
    """
    path, folder = Path(given.path), Path(recipe.data.tables).expanduser()
    content, position = file_hashes([path])[path], given.image_position or "as_written"
    file = folder / f"{content[:NAME]}.records"
    counts = folder / f"{_way(recipe, content, position, renderer, transform)[:NAME]}.counts"
    with _writing(folder), one_at_a_time(file):
        if not (file.is_file() and counts.is_file()):
            for left in (*leftovers(file), *leftovers(counts)):  # of a process that was killed: as large as the file
                remove(left)
            make_renderer = partial(Renderer, renderer.tokenizer, renderer.template, renderer.num_image_tokens)
            make = partial(
                Looker, RowParser(path), position, make_renderer, transform.image_folder, recipe.data.max_length
            )
            blocks = RecordTable(file, path).blocks() if file.is_file() else written(path, file)
            write_counts(count_samples(blocks, make, num_blocks(path), f"Counting {path.name}, MB"), counts)
    return TableConversations(RecordTable(file, path), position), read_arrow(counts)


def _way(recipe: Recipe, content: str, position: str, renderer: Renderer, transform: ImageTransform) -> str:
    """A hash of all that lengths depend on."""
    tokenizer = renderer.tokenizer
    about = {
        "version": [vlmtool.__version__, COUNTING],
        "content": content,
        "image_folder": str(transform.image_folder.resolve()),
        "image_position": position,
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "template": renderer.template.jinja,
        "pictures": preparation(transform.views),
        "projector": recipe.projector.model_dump(mode="json"),
        "max_length": recipe.data.max_length,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"data.tables: '{folder}' cannot be written to: {error.strerror}.\n"
            "A table takes about as much room as its file. Name another folder: --set data.tables=FOLDER."
        ) from error
