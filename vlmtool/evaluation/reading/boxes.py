"""How models write a box as text, in which frame its numbers stand, and how far two boxes overlap.

A model says where a thing is in the frame that it was trained with: in the picture that it sees, padded to a square or
not, from 0 to 1 or in percent. Numbers in one frame are wrong in another.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Box = tuple[float, float, float, float]  # left, top, right, bottom
Size = tuple[int, int]  # width and height in pixels

_SHARE = r"\s*(\d*\.?\d+|\d+\.)\s*"
_SHARES = re.compile(rf"[\[(]{','.join([_SHARE] * 4)}[\])]")
_INTEGER = re.compile(r"\d+")


@dataclass(frozen=True)
class BoxForm:
    """One tool's way.

    Attributes:
        instruction: asks for the box of what stands at {}.
        read: the box in an answer, in the tool's frame; None where there is none, or not just one.
        write: a box as the tool writes it.
        in_frame: a box in pixels to the tool's frame.
        iou: overlap of two boxes there, 0 to 1.
    """

    instruction: str
    read: Callable[[str], Box | None]
    write: Callable[[Box], str]
    in_frame: Callable[[Box, Size], Box]
    iou: Callable[[Box, Box], float]


def is_box(values: Sequence[Any]) -> bool:
    """Four finite numbers."""
    return len(values) == 4 and all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )


def read_shares(text: str) -> Box | None:
    """The only [x1, y1, x2, y2] of a text, all from 0 to 1; round brackets are Shikra's other form."""
    found = _SHARES.findall(text)
    if len(found) != 1:
        return None
    left, top, right, bottom = map(float, found[0])
    return (left, top, right, bottom) if max(left, top, right, bottom) <= 1 else None


def read_percent(text: str) -> Box | None:
    """`{<x1><y1><x2><y2>}`, or any text with four whole numbers: so XTuner's evaluator reads it."""
    found = _INTEGER.findall(text)
    if len(found) != 4 or max(map(len, found)) > 9:
        return None
    left, top, right, bottom = map(int, found)
    return left, top, right, bottom


def in_picture(box: Box, size: Size) -> Box:
    """Pixels to shares of the picture's width and height."""
    left, top, right, bottom = box
    width, height = size
    return left / width, top / height, right / width, bottom / height


def in_square(box: Box, size: Size) -> Box:
    """Pixels to shares of the square that the picture is padded to, on both sides alike."""
    width, height = size
    side = max(size)
    x, y = (side - width) // 2, (side - height) // 2
    left, top, right, bottom = box
    return in_picture((left + x, top + y, right + x, bottom + y), (side, side))


def in_percent(box: Box, size: Size) -> Box:
    """Pixels to whole percents of the picture's sides, cut and not rounded."""
    left, top, right, bottom = (int(100 * share) for share in in_picture(box, size))
    return left, top, right, bottom


def iou(first: Box, second: Box, unit: float = 0.0) -> float:
    """Intersection over union. A box whose corners are the wrong way round overlaps with nothing.

    Args:
        unit: added to each width and height; 1 where the numbers name cells of which the last belongs to the box.
    """
    width = min(first[2], second[2]) - max(first[0], second[0]) + unit
    height = min(first[3], second[3]) - max(first[1], second[1]) + unit
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + unit) * (box[3] - box[1] + unit) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def _iou_of_cells(first: Box, second: Box) -> float:
    return iou(first, second, unit=1.0)


def _shares_text(box: Box) -> str:
    return "[" + ", ".join(f"{value:.3f}" for value in box) + "]"


def _percent_text(box: Box) -> str:
    return "{" + "".join(f"<{value:.0f}>" for value in box) + "}"


_PLEASE = "Please provide the bounding box coordinate of the region this sentence describes: {}"
FORMS = {
    # LLaVA-1.5's data and Shikra: shares of the padded square (https://github.com/haotian-liu/LLaVA/issues/606).
    "llava": BoxForm(_PLEASE, read_shares, _shares_text, in_square, iou),
    # The same for models that see the picture unpadded.
    "unpadded": BoxForm(_PLEASE, read_shares, _shares_text, in_picture, iou),
    # MiniGPT-v2 and XTuner: percents of the picture, squeezed to a square and not padded; xtuner/tools/eval_refcoco.py.
    "xtuner": BoxForm("[refer] give me the location of {}", read_percent, _percent_text, in_percent, _iou_of_cells),
}
