"""A small MMBench file writer: each test writes the table it is about."""

import base64
import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

COLUMNS = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split")


def picture(mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = (8, 6)) -> str:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


PICTURE = picture()


@pytest.fixture
def write_table(tmp_path: Path) -> Callable[..., Path]:
    """Write rows (dicts; what a row leaves out has a sound default) under `columns`; returns the file."""

    def write(*rows: dict[str, str], columns: tuple[str, ...] = COLUMNS, name: str = "table.tsv") -> Path:
        path = tmp_path / name
        sound = {
            "index": "0", "question": "Which?", "A": "red", "B": "green", "answer": "A",
            "category": "ocr", "image": PICTURE, "l2-category": "coarse_perception", "split": "dev",
        }  # fmt: skip
        with open(path, "w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, columns, delimiter="\t", lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows([sound | row for row in rows])
        return path

    return write


@pytest.fixture
def question() -> tuple[dict[str, str], dict[str, str]]:
    """The two rotations of one question with two options."""
    return {"index": "0"}, {"index": "1000000", "A": "green", "B": "red", "answer": "B", "image": "0"}
