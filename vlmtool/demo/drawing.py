"""From a scene to a picture. Lengths are in units of 1/64 of the picture's longer side, so that a picture padded to a
square and scaled to 64 pixels always shows the same sizes."""

import colorsys
import math
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw

from vlmtool.demo.digits import load_digits
from vlmtool.demo.scenes import Scene

PICTURE_SIZES = ((64, 64), (80, 80), (96, 96), (96, 84), (84, 96))  # width, height in pixels
HUES = {"red": 0, "orange": 30, "yellow": 57, "green": 125, "blue": 222, "purple": 287}  # degrees
GROUNDS = {"white": (244, 244, 240), "gray": (150, 150, 150), "black": (22, 22, 26), "brown": (116, 76, 44)}
RADII = {"tiny": 5.0, "small": 7.3, "large": 9.8, "huge": 12.8}  # of the circle around the object
PLACES = {"top": (0, -1), "bottom": (0, 1), "left": (-1, 0), "right": (1, 0)}  # direction from the middle
OPPOSITE = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}
OFF_CENTRE = 10.5  # an object at a place has its centre this far from the middle
OBJECT_CARD = 27.0  # side of the light card behind the object: the ground would blur small shapes
DIGIT_SIDE = 20.0
JPEG_QUALITY = 92
OVERSAMPLING = 2  # drawn this much larger and averaged down: PIL's shapes have hard edges

Point = tuple[float, float]


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Draw a scene as an RGB picture of one of `PICTURE_SIZES`, with jitter in position, size, colour and noise."""
    width, height = PICTURE_SIZES[rng.integers(len(PICTURE_SIZES))]
    size = (width * OVERSAMPLING, height * OVERSAMPLING)
    unit = max(size) / 64
    ground = tuple(int(c) for c in np.clip(np.array(GROUNDS[scene.ground]) + rng.integers(-8, 9), 0, 255))
    picture = Image.new("RGB", size, ground)
    canvas = ImageDraw.Draw(picture)
    _draw_pattern(canvas, scene, size, unit, ground, rng)
    _draw_object(canvas, scene, _centre(scene.place, size, unit, rng), unit, rng)
    if scene.digit_sample is not None:
        _paste_digit(picture, scene, _centre(OPPOSITE[scene.place], size, unit, rng), unit, rng)
    _draw_frame(canvas, scene, size, unit, rng)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    noisy = pixels * rng.uniform(0.94, 1.06) + rng.normal(0, 3, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encode_jpeg(picture: Image.Image) -> bytes:
    """A picture as the bytes of a JPEG file."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def blank_picture() -> Image.Image:
    """The picture that shows nothing: even mid-gray."""
    return Image.new("RGB", (64, 64), (128, 128, 128))


def _centre(place: str, size: tuple[int, int], unit: float, rng: np.random.Generator) -> Point:
    """Where something at a place has its centre, in pixels: the same in the padded square for every picture size."""
    towards_x, towards_y = PLACES[place]
    along, across = rng.uniform(-1.5, 1.5), rng.uniform(-0.75, 0.75)
    dx, dy = (along, across) if towards_x == 0 else (across, along)
    x, y = size[0] / 2, size[1] / 2
    return x + (OFF_CENTRE * towards_x + dx) * unit, y + (OFF_CENTRE * towards_y + dy) * unit


def _draw_pattern(
    canvas: ImageDraw.ImageDraw,
    scene: Scene,
    size: tuple[int, int],
    unit: float,
    ground: tuple[int, ...],
    rng: np.random.Generator,
) -> None:
    """Stripes, dots or checks, a little darker than a light ground or lighter than a dark one."""
    shift = (-38 if sum(ground) > 420 else 38) + int(rng.integers(-5, 6))
    ink = tuple(int(np.clip(c + shift, 0, 255)) for c in ground)
    phase, period = rng.uniform(0, 8, 2) * unit, 8 * unit
    columns, rows = (int(side / period) + 3 for side in size)
    if scene.pattern == "striped":
        for i in range(-rows, columns + 1):
            start = i * period + phase[0]
            canvas.line([(start, 0), (start + size[1], size[1])], fill=ink, width=round(2.6 * unit))
    elif scene.pattern in ("dotted", "checked"):
        for i in range(columns):
            for j in range(rows):
                x, y = (i - 1) * period + phase[0], (j - 1) * period + phase[1]
                if scene.pattern == "dotted":
                    canvas.ellipse([x, y, x + 3.4 * unit, y + 3.4 * unit], fill=ink)
                elif (i + j) % 2:
                    canvas.rectangle([x, y, x + period - 1, y + period - 1], fill=ink)


def _draw_object(
    canvas: ImageDraw.ImageDraw, scene: Scene, centre: Point, unit: float, rng: np.random.Generator
) -> None:
    """The object on a light card: its hue within 6 degrees, its radius within 3 %."""
    hue = (HUES[scene.colour] + rng.uniform(-6, 6)) % 360 / 360
    fill = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, rng.uniform(0.85, 1), rng.uniform(0.85, 1)))
    radius = RADII[scene.size] * rng.uniform(0.97, 1.03) * unit
    x, y = centre
    card = OBJECT_CARD / 2 * unit
    canvas.rectangle([x - card, y - card, x + card, y + card], fill=(int(rng.uniform(225, 250)),) * 3)
    if scene.object == "circle":
        canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)
        return
    outline = _OUTLINES[scene.object]
    canvas.polygon([(x + radius * px, y + radius * py) for px, py in outline], fill=fill)


def _paste_digit(picture: Image.Image, scene: Scene, centre: Point, unit: float, rng: np.random.Generator) -> None:
    """The scene's handwriting as dark ink on a light card."""
    ink = load_digits()[0][scene.digit_sample].astype(np.float32) / 16  # (8, 8)
    paper, pen = rng.uniform(225, 250), rng.uniform(10, 50)
    card = Image.fromarray((paper + (pen - paper) * np.pad(ink, 1)).astype(np.uint8), "L")
    side = round(DIGIT_SIDE * rng.uniform(0.97, 1.03) * unit)
    card = card.resize((side, side), Image.Resampling.BICUBIC)
    card = card.rotate(rng.uniform(-5, 5), Image.Resampling.BILINEAR, fillcolor=int(paper))
    picture.paste(card, (round(centre[0] - side / 2), round(centre[1] - side / 2)))


def _draw_frame(
    canvas: ImageDraw.ImageDraw, scene: Scene, size: tuple[int, int], unit: float, rng: np.random.Generator
) -> None:
    """A thin, thick, dashed or double line along the border, dark on light grounds and light on dark ones."""
    level = rng.integers(20, 60) if scene.ground in ("white", "gray") else rng.integers(200, 240)
    ink = (int(level),) * 3
    for inset, width in {"thin": [(1.5, 1.2)], "thick": [(1.0, 4.0)], "double": [(1.0, 1.1), (4.2, 1.1)]}.get(
        scene.frame, []
    ):
        near, w = inset * unit, max(1, round(width * unit))
        canvas.rectangle([near, near, size[0] - 1 - near, size[1] - 1 - near], outline=ink, width=w)
    if scene.frame == "dashed":
        _draw_dashes(canvas, size, unit, ink, phase=rng.uniform(0, 8) * unit)


def _draw_dashes(
    canvas: ImageDraw.ImageDraw, size: tuple[int, int], unit: float, ink: tuple[int, int, int], phase: float
) -> None:
    """Dashes of 5 units with gaps of 4, 2.4 thick, on all four sides."""
    near, thick, dash, period = 1.2 * unit, 2.4 * unit, 5 * unit, 9 * unit
    for axis in (0, 1):
        for start in np.arange(phase - period, size[axis], period):
            low, high = max(start, near), min(start + dash, size[axis] - near)
            for side in (near, size[1 - axis] - near - thick):
                box = [low, side, high, side + thick] if axis == 0 else [side, low, side + thick, high]
                if high > low:
                    canvas.rectangle(box, fill=ink)


def _star(points: int = 5, inner: float = 0.42) -> list[Point]:
    """A star's outline inside the unit circle, one point upwards."""
    angles = [math.pi * i / points - math.pi / 2 for i in range(2 * points)]
    return [((1, inner)[i % 2] * math.cos(a), (1, inner)[i % 2] * math.sin(a)) for i, a in enumerate(angles)]


def _heart(steps: int = 24) -> list[Point]:
    """A heart's outline inside the unit circle (the classic sine curve)."""
    turns = [2 * math.pi * i / steps for i in range(steps)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in turns
    ]


_ARM = 0.36  # half the width of the cross's arms
_OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": [(0, -1), (0.95, 0.75), (-0.95, 0.75)],
    "cross": [
        (-_ARM, -1),
        (_ARM, -1),
        (_ARM, -_ARM),
        (1, -_ARM),
        (1, _ARM),
        (_ARM, _ARM),
        (_ARM, 1),
        (-_ARM, 1),
        (-_ARM, _ARM),
        (-1, _ARM),
        (-1, -_ARM),
        (-_ARM, -_ARM),
    ],
    "star": _star(),
    "heart": _heart(),
}
