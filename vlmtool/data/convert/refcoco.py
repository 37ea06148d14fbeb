"""Referring expressions: asked is where something is, answered with its box.

Forms of the files: XTuner's, made from RefCOCO (sents, image, bbox in percent of the sides) or for its evaluator
(sents, img_id, bbox [left, top, width, height] in pixels); Shikra's (expression, img_path) and Qwen-VL's (sent, image),
bbox [left, top, right, bottom] in pixels. Source: https://github.com/InternLM/xtuner, xtuner/dataset/refcoco_json.py;
the others as in vlmtool.evaluation.benchmarks.refcoco.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vlmtool.data.convert.items import (
    GPT,
    HUMAN,
    Item,
    Pictures,
    Unusable,
    as_object,
    each_record,
    llava_record,
    text_field,
)
from vlmtool.data.formats.json_stream import Record
from vlmtool.data.formats.llava import record_id
from vlmtool.data.tokenizer import IMAGE_TAG
from vlmtool.utils.errors import UsageError, shortened

Box = tuple[float, float, float, float]  # left, top, right, bottom
Size = tuple[int, int]  # width and height in pixels
WORDS = {"img_id": "sents", "img_path": "expression", "sent": "sent", "sents": "sents"}  # by the field that tells
_COCO_DIGITS = 12
_FARTHEST = 1e6  # pixels


def records(
    source: Path,
    pictures: Pictures,
    ask: Callable[[str], str],
    answer: Callable[[Box, Size], str],
    of_percents: Callable[[Box], str] | None = None,
) -> Iterator[Item]:
    """A record for each expression.

    Args:
        ask: the question for an expression.
        answer: the text for a box in pixels and the picture's size.
        of_percents: the text for a box in percent; without it XTuner's own file, which has no sizes, is of no use.

    Raises:
        UsageError: the file is RefCOCO's own, a pickle.
    """
    with open(source, "rb") as file:
        if source.suffix in (".p", ".pkl", ".pickle") or file.read(2)[:1] == b"\x80":
            raise UsageError(
                f"{source}: a pickle, which can run any code when it is read: refused.\n"
                "Give the same data as JSON: XTuner's `preprocess refcoco`, or Shikra's or Qwen-VL's JSON Lines."
            )

    def convert(record: Record) -> Iterable[dict[str, Any]]:
        entry = as_object(record.value)
        field = next((field for field in WORDS if field in entry), "")
        if not field:
            raise Unusable("wrong form", f"no referring expression: it has none of {', '.join(WORDS.values())}")
        expression = text_field(entry, WORDS[field]).strip()
        image = _image(text_field(entry, field if field.startswith("img") else "image"))
        box, size = _box(entry, field)
        if size is not None:
            text = answer(box, size)
        elif of_percents is not None:
            text = of_percents(box)
        else:
            raise Unusable("no size", "the box is in percent, which cannot be written in this form: no picture's size")
        own_id = {"id": entry.get("id", entry.get("question_id"))}
        name = record_id(own_id, f"{PurePosixPath(image).stem}-{record.number}")
        turns = [(HUMAN, f"{IMAGE_TAG}\n{ask(expression)}"), (GPT, text)]
        yield llava_record(name, [pictures.name_of(image)], turns)

    return each_record(source, convert)


def _image(name: str) -> str:
    """COCO's file: MiniGPT-v2 writes COCO_train2014_000000581857_16, its object's number at the end."""
    if PurePosixPath(name).suffix:
        return PurePosixPath(name).name
    number = next((part for part in name.split("_") if len(part) == _COCO_DIGITS and part.isdecimal()), None)
    return f"{number or name}.jpg"


def _box(entry: Mapping[str, Any], field: str) -> tuple[Box, Size | None]:
    """The box in pixels and the picture's size; or, in XTuner's own file, in percent and no size."""
    values = entry.get("bbox")
    if not isinstance(values, list) or len(values) != 4 or not all(_is_place(value) for value in values):
        raise Unusable("wrong box", f"'bbox' is not four numbers but {shortened(repr(values), 60)}")
    left, top, right, bottom = map(float, values)
    if field == "img_id":
        right, bottom = left + right, top + bottom
    in_percent = field == "sents"
    width, height = (100, 100) if in_percent else (entry.get("width"), entry.get("height"))
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        raise Unusable("no size", "'width' and 'height' of the picture are not given")
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise Unusable("wrong box", f"the box {values} is empty or not in the picture of {width} × {height}")
    return (left, top, right, bottom), None if in_percent else (width, height)


def _is_place(value: Any) -> bool:
    """A number that can be one of a picture's."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _FARTHEST
