"""Referring expressions: asked is where something is, answered with its box.

Forms of the files: XTuner's, made from RefCOCO (sents, image) or for its evaluator (sents, img_id), with bbox
[left, top, width, height]; Shikra's (expression, img_path) and Qwen-VL's (sent, image), with bbox [left, top, right,
bottom]. All are in pixels, with the picture's width and height beside them. Source:
https://github.com/InternLM/xtuner, xtuner/dataset/refcoco_json.py at v0.1.23; the others as in
vlmtool.evaluation.benchmarks.refcoco.
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
_OVERHANG = 0.5  # pixels, by which a box may leave its picture: COCO's left and width are rounded each for itself


def records(
    source: Path,
    pictures: Pictures,
    ask: Callable[[str], str],
    answer: Callable[[Box, Size], str],
) -> Iterator[Item]:
    """A record for each expression.

    Args:
        ask: the question for an expression.
        answer: the text for a box in pixels and the picture's size.

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
        text = answer(*_box(entry, field))
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


def _box(entry: Mapping[str, Any], field: str) -> tuple[Box, Size]:
    """The box in pixels and the picture's size."""
    values = entry.get("bbox")
    if not isinstance(values, list) or len(values) != 4 or not all(_is_place(value) for value in values):
        raise Unusable("wrong box", f"'bbox' is not four numbers but {shortened(repr(values), 60)}")
    left, top, right, bottom = map(float, values)
    if WORDS[field] == "sents":
        right, bottom = left + right, top + bottom
    width, height = entry.get("width"), entry.get("height")
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        raise Unusable("no size", "'width' and 'height' of the picture are not given")
    inside = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    overhang = max(abs(given - kept) for given, kept in zip((left, top, right, bottom), inside, strict=True))
    if overhang > _OVERHANG or inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise Unusable("wrong box", f"the box {values} is empty or not in the picture of {width} × {height}")
    return inside, (width, height)


def _is_place(value: Any) -> bool:
    """A number that can be one of a picture's."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _FARTHEST
