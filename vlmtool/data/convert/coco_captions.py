"""COCO's captions_*.json: {images: [{id, file_name}], annotations: [{id, image_id, caption}]}.

Source: https://cocodataset.org/#format-data, section 4.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlmtool.data.convert.items import Item, Pictures, Unusable, as_object, attempt, caption_record, text_field
from vlmtool.utils.errors import DataError, shortened
from vlmtool.utils.files import read_json


def records(source: Path, pictures: Pictures) -> Iterator[Item]:
    """A record for each annotation, with the annotation's id.

    Raises:
        DataError: the file is not of this form.
    """
    try:
        content = read_json(source)
    except ValueError as error:
        raise DataError(f"{source}: not valid JSON: {error}\nWas the file downloaded to its end?") from error
    lists = [content.get(name) if isinstance(content, dict) else None for name in ("images", "annotations")]
    if not all(isinstance(value, list) for value in lists):
        raise DataError(
            f"{source}: not COCO's captions: the lists 'images' and 'annotations' are not in it.\n"
            "Give captions_train2017.json, or another FORMAT."
        )
    images, annotations = lists
    names = {
        image["id"]: image.get("file_name")
        for image in images or []
        if isinstance(image, dict) and isinstance(image.get("id"), int | str)
    }

    def convert(annotation: Any) -> Iterable[dict[str, Any]]:
        entry = as_object(annotation)
        image_id = entry.get("image_id")
        image = names.get(image_id) if isinstance(image_id, int | str) else None
        if not isinstance(image, str):
            raise Unusable("no picture", f"no image has the id {shortened(repr(image_id))}")
        if not isinstance(entry.get("id"), int | str):
            raise Unusable("wrong form", "the annotation has no id")
        yield caption_record(entry["id"], [pictures.name_of(image)], text_field(entry, "caption").strip())

    for number, annotation in enumerate(annotations or [], start=1):
        yield from attempt(f"{source}: annotation {number}", lambda annotation=annotation: convert(annotation))  # type: ignore[misc]
