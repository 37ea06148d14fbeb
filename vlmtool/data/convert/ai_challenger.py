"""AI Challenger's captions as Basic-Vision-Language-Model learns from them.

A JSON list of {image_id: "….jpg", caption: [5 texts], url}; of each record one caption and one of two prompts are
chosen at random there. Source: https://github.com/xinyanghuang7/Basic-Visual-Language-Model.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any, Literal

from vlmtool.data.convert.items import GPT, HUMAN, Item, Pictures, Unusable, as_object, each_record, llava_record
from vlmtool.data.formats.json_stream import Record
from vlmtool.data.tokenizer import IMAGE_TAG

Choice = Literal["random", "first", "all"]
PROMPTS = {
    "after": f"这幅图像描述了什么？{IMAGE_TAG}",
    "before": f"{IMAGE_TAG}这幅图像中有什么？",
}  # where the picture is


def records(
    source: Path, pictures: Pictures, generator: Random, captions: Choice = "random", prompts: Sequence[str] = ()
) -> Iterator[Item]:
    """A record for each caption that is chosen, `image_id` and the caption's number being its id.

    Args:
        prompts: of which each record gets one at random; the two of `PROMPTS` unless given.
    """
    asked = list(prompts or PROMPTS.values())

    def convert(record: Record) -> Iterable[dict[str, Any]]:
        entry = as_object(record.value)
        image = entry.get("image_id")
        if not isinstance(image, str) or not image:
            raise Unusable("wrong form", "'image_id' is no file name")
        texts = _texts(entry.get("caption"))
        name = pictures.name_of(image)
        for number, text in _chosen(texts, captions, generator):
            question = generator.choice(asked) if len(asked) > 1 else asked[0]
            stem = PurePosixPath(image).stem
            yield llava_record(f"{stem}-{number}", [name], [(HUMAN, question), (GPT, text)])

    return each_record(source, convert)


def _texts(value: Any) -> list[tuple[int, str]]:
    """The captions that are not empty, each with its number from 0; one text alone is a caption, too."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise Unusable("wrong form", "'caption' is no list of texts")
    texts = [(number, text.strip()) for number, text in enumerate(listed) if text.strip()]
    if not texts:
        raise Unusable("no caption", "'caption' is empty")
    return texts


def _chosen(texts: list[tuple[int, str]], captions: Choice, generator: Random) -> list[tuple[int, str]]:
    if captions == "random":
        return [generator.choice(texts)]
    return texts if captions == "all" else texts[:1]
