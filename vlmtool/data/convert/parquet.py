"""Hugging Face's parquet shards: a column of pictures {bytes, path}, and one of turns, of questions or of captions.

Source: https://huggingface.co/docs/datasets/about_dataset_features#image-feature.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from vlmtool.data.convert.chat_turns import TURNS, chat_record, image_name
from vlmtool.data.convert.items import (
    GPT,
    HUMAN,
    Item,
    Pictures,
    Turn,
    Unusable,
    attempt,
    caption_record,
    llava_record,
    text_field,
)
from vlmtool.data.tokenizer import IMAGE_TAG
from vlmtool.utils.errors import DataError, message_lines

BATCH = 64  # rows in memory, with their pictures
PAIRS = "texts"  # the Cauldron's: [{user, assistant, source}]
CAPTIONS = ("caption", "text")
_IMAGES = ("images", "image", "jpg", "png")
_KEYS = ("id", "key", "__key__", "question_id")


def records(source: Path, pictures: Pictures) -> Iterator[Item]:
    """A record for each row, read in small batches; pictures are written under the row's id.

    Raises:
        DataError: the file is no parquet, or no column of it is known.
    """
    number = 0
    try:
        with parquet.ParquetFile(source) as file:
            columns = _known_columns(source, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=BATCH, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    default_id = f"{source.stem}-{number}"
                    yield from attempt(
                        f"{source}: row {number}",
                        lambda row=row, default_id=default_id: _convert(row, default_id, pictures),  # type: ignore[misc]
                    )
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{source}: cannot be read as parquet, after row {number}: {message_lines(error)[0]}\n"
            "Was the file downloaded to its end?"
        ) from error


def _known_columns(source: Path, names: list[str]) -> list[str]:
    """The columns that are read; large ones that nobody reads stay on disk."""
    if not any(name in names for name in (*TURNS, PAIRS, *CAPTIONS)):
        raise DataError(
            f"{source}: no column of turns or captions; it has {', '.join(names)}.\n"
            f"One of {', '.join((*TURNS, PAIRS, *CAPTIONS))} is needed: rename the column that holds them."
        )
    return [name for name in names if name in (*_KEYS, *_IMAGES, *TURNS, PAIRS, *CAPTIONS, "system")]


def _convert(row: Mapping[str, Any], default_id: str, pictures: Pictures) -> Iterable[dict[str, Any]]:
    key = next((str(row[name]) for name in _KEYS if row.get(name) not in (None, "")), default_id)
    listed: Any = next((row[name] for name in _IMAGES if row.get(name) not in (None, [], b"")), [])
    values = listed if isinstance(listed, list) else [listed]
    images = [image_name(value, pictures, key) for value in values]
    turns = next((name for name in TURNS if row.get(name)), None)
    if turns:
        yield chat_record({"id": key, turns: row[turns], "system": row.get("system")}, key, pictures, images)
    elif row.get(PAIRS):
        yield llava_record(key, images, _pairs(row[PAIRS], len(images)))
    else:
        caption = next((name for name in CAPTIONS if row.get(name)), CAPTIONS[0])
        yield caption_record(key, images, text_field(dict(row), caption).strip())


def _pairs(value: Any, num_images: int) -> list[Turn]:
    """Questions and answers of one sample, its pictures before the first question."""
    turns: list[Turn] = []
    for pair in value:
        question, answer = (pair.get(name) if isinstance(pair, Mapping) else None for name in ("user", "assistant"))
        if not isinstance(question, str) or not isinstance(answer, str):
            raise Unusable("wrong form", f"'{PAIRS}' is no list of {{user, assistant}}")
        tags = "" if turns else f"{IMAGE_TAG}\n" * num_images
        turns += [(HUMAN, tags + question), (GPT, answer)]
    return turns
