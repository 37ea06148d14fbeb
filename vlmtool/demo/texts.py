"""What is said about a scene: captions, free questions with their answers, and multiple choice in MMBench's form."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmtool.demo.scenes import ATTRIBUTES, VALUES, Scene

LETTERS = "ABCD"
DESCRIBE = ("Describe the picture.", "What does the picture show?")
QUESTIONS = {
    "object": ("What is the object?", "Which shape does the picture show?"),
    "colour": ("What colour is the object?", "Which colour does the object have?"),
    "place": ("Where is the object?", "At which side is the object?"),
    "size": ("How large is the object?", "Which size does the object have?"),
    "ground": ("What colour is the ground?", "On which ground is the object?"),
    "pattern": ("Which pattern does the ground have?", "How is the ground patterned?"),
    "frame": ("Which frame does the picture have?", "What kind of line is the frame?"),
    "digit": ("Which digit is written?", "Which number does the picture show?"),
}
# https://github.com/open-compass/MMBench asks so; LLaVA and XTuner add the second line.
CHOICE_INSTRUCTION = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Choice:
    """One multiple-choice question: `options[answer]` is right."""

    attribute: str
    question: str
    options: tuple[str, ...]
    answer: int

    @property
    def letter(self) -> str:
        return LETTERS[self.answer]


def caption(scene: Scene) -> str:
    """The canonical description, in one fixed order."""
    text = (
        f"A {scene.size} {scene.colour} {scene.object} at the {scene.place} on a {scene.ground} {scene.pattern} ground "
        f"in a {scene.frame} frame"
    )
    return f"{text} with the digit {scene.digit}." if scene.digit else f"{text}."


def answer_sentence(word: str) -> str:
    """The answer to a free question."""
    return f"It is {word}."


def choice_prompt(question: str, options: Sequence[str]) -> str:
    """The text of a multiple-choice question, without image and hint."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines, CHOICE_INSTRUCTION])


def asked_attributes(scene: Scene) -> list[str]:
    """The attributes that can be asked about a scene: the digit only where there is one."""
    return [attribute for attribute in ATTRIBUTES if scene.value(attribute) is not None]


def sample_attribute(scene: Scene, rng: np.random.Generator) -> str:
    """An attribute to ask about; digits, which only some scenes have, are asked for in half of their scenes."""
    if scene.digit is not None and rng.random() < 0.5:
        return "digit"
    return str(rng.choice(ATTRIBUTES[:-1]))


def free_question(attribute: str, rng: np.random.Generator) -> str:
    """One phrasing of the question for an attribute."""
    return str(rng.choice(QUESTIONS[attribute]))


def sample_choice(scene: Scene, attribute: str, num_options: int, rng: np.random.Generator) -> Choice:
    """A multiple-choice question about a scene: wrong options uniform among the other values, order by lot."""
    right = scene.value(attribute)
    wrong = [value for value in VALUES[attribute] if value != right]
    options = [right, *rng.choice(wrong, num_options - 1, replace=False)]
    order = rng.permutation(num_options)
    shuffled = tuple(str(options[i]) for i in order)
    return Choice(attribute, free_question(attribute, rng), shuffled, shuffled.index(right))
