"""What a demo scene is: its attributes, which combinations are kept for the test, and how scenes are drawn by lot.

A scene is one coloured object at one of four places on a patterned ground inside a frame; some scenes also show a
handwritten digit. Every value is one English word, and no word belongs to two attributes, so that a scene can be told
as a bag of words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlmtool.demo.digits import DIGIT_WORDS, digit_samples

# The order of objects, colours and places matters to `is_held_out`: neighbours make the minimal pairs of the test.
VALUES: Mapping[str, tuple[str, ...]] = {
    "object": ("circle", "square", "heart", "triangle", "star", "cross"),
    "colour": ("red", "green", "purple", "yellow", "blue", "orange"),
    "place": ("top", "left", "bottom", "right"),
    "size": ("tiny", "small", "large", "huge"),
    "ground": ("white", "gray", "black", "brown"),
    "pattern": ("plain", "striped", "dotted", "checked"),
    "frame": ("thin", "thick", "dashed", "double"),
    "digit": DIGIT_WORDS,
}
ATTRIBUTES = tuple(VALUES)
DIGIT_SHARE = 1 / 3  # of the scenes show a digit


@dataclass(frozen=True)
class Scene:
    """One scene. `digit_sample` is the row of the handwriting file that is drawn; `digit` is its label as a word."""

    object: str
    colour: str
    place: str
    size: str
    ground: str
    pattern: str
    frame: str
    digit: str | None = None
    digit_sample: int | None = None

    def value(self, attribute: str) -> str | None:
        """The word for an attribute, None where the scene has no digit."""
        return getattr(self, attribute)

    def words(self) -> list[str]:
        """Every attribute's word, in the order of `ATTRIBUTES`, the digit only where there is one."""
        return [word for attribute in ATTRIBUTES if (word := self.value(attribute)) is not None]


def is_held_out(object_: str, colour: str, place: str) -> bool:
    """True for the third of the combinations that belong to the test and that no training sees, the parts' included.

    A Latin design: every object, colour and place is held out equally often, and equally often beside each place. Two
    residues, not one, so that two held-out scenes can differ in the object, the colour or the place alone.
    """
    index = VALUES["object"].index(object_) + VALUES["colour"].index(colour) + VALUES["place"].index(place)
    return index % len(VALUES["object"]) in (0, 1)


def sample_scene(
    rng: np.random.Generator,
    *,
    held_out: bool,
    fixed: Mapping[str, str] | None = None,
    digit_share: float = DIGIT_SHARE,
) -> Scene:
    """Draw a scene by lot, uniformly among those of one side of the hold-out.

    Args:
        rng: the only source of chance.
        held_out: a test scene (held-out combination and handwriting) or a training scene.
        fixed: values that are given, for example {"colour": "red"}; a fixed digit forces a digit.
        digit_share: share of scenes with a digit where `fixed` does not name one.
    """
    fixed = dict(fixed or {})
    digit = fixed.pop("digit", None)
    if digit is None and rng.random() < digit_share:
        digit = str(rng.choice(DIGIT_WORDS))
    while True:
        words = {a: fixed.get(a) or str(rng.choice(VALUES[a])) for a in ATTRIBUTES if a != "digit"}
        if is_held_out(words["object"], words["colour"], words["place"]) == held_out:
            break
    sample = int(rng.choice(digit_samples(digit, held_out))) if digit else None
    return Scene(**words, digit=digit, digit_sample=sample)


def minimal_pair(scene: Scene, attribute: str, rng: np.random.Generator) -> Scene:
    """A second test scene that differs from a held-out `scene` in one attribute only.

    Raises:
        ValueError: no other value keeps the combination held out (some places have no such neighbour).
    """
    others = [value for value in VALUES[attribute] if value != scene.value(attribute)]
    for value in rng.permutation(others):
        changed: dict[str, Any] = {attribute: str(value)}
        other = replace(scene, **changed)
        if attribute == "digit":
            return replace(other, digit_sample=int(rng.choice(digit_samples(other.digit, held_out=True))))
        if is_held_out(other.object, other.colour, other.place):
            return other
    raise ValueError(f"No held-out scene differs from {scene} in '{attribute}' alone. Draw another scene.")
