"""The handwriting of the demo: 1,797 digits of 8 x 8 pixels, split once and for ever into training and test samples.

Source: UCI "Optical Recognition of Handwritten Digits" (CC BY 4.0), see assets/digits_attribution.txt.
"""

from functools import cache
from pathlib import Path

import numpy as np

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_FILE = Path(__file__).parent / "assets" / "digits.npz"
HELD_OUT_EVERY = 5  # every fifth sample is drawn in the test only


@cache
def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The handwriting: ink (1797, 8, 8) uint8 from 0 to 16, labels (1797,) uint8 from 0 to 9."""
    with np.load(DIGITS_FILE) as file:
        return file["ink"], file["labels"]


@cache
def digit_samples(word: str, held_out: bool) -> np.ndarray:
    """The rows of the handwriting file that show a digit, of the test (`held_out`) or of the training share."""
    labels = load_digits()[1]
    rows = np.flatnonzero(labels == DIGIT_WORDS.index(word))
    return rows[(rows % HELD_OUT_EVERY == 0) == held_out]
