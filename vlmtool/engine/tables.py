"""Tables of large data files: which files have one, where, and what it depends on."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import vlmtool
from vlmtool.data.formats.record_table import RecordTable, write_table
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.large import TableConversations
from vlmtool.data.render import Renderer
from vlmtool.data.views import preparation
from vlmtool.models.fingerprint import file_hashes
from vlmtool.recipe.schema import DataSet, Recipe
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import one_at_a_time

LARGE = 64 << 20  # bytes, some 40,000 records: what is smaller is read in less time than it takes to load torch
COUNTING = 1  # to be raised where samples come to be made or counted otherwise
NAME = 16  # characters of a hash in a file's name


def is_large(given: DataSet) -> bool:
    """Whether a set's file is read through a table."""
    path = Path(given.path)
    return path.is_file() and path.stat().st_size > LARGE


def open_large(
    recipe: Recipe, given: DataSet, renderer: Renderer, transform: ImageTransform
) -> tuple[TableConversations, Path]:
    """The records of a set, written as a table where no run did so before; and where the counts of its samples lie.

    Raises:
        UsageError: the table cannot be written. DataError: the file is broken.
    """
    path, folder = Path(given.path), Path(recipe.data.tables).expanduser()
    content = file_hashes([path])[path]
    file = folder / f"{content[:NAME]}.records"
    with _writing(folder), one_at_a_time(file):
        if not file.is_file():
            write_table(path, file)
    position = given.image_position or "as_written"
    samples = TableConversations(RecordTable(file, path), position)
    return samples, folder / f"{_way(recipe, content, position, renderer, transform)[:NAME]}.counts"


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
