"""The demo's test in MMBench's TSV format, with the control files that a sceptic asks for.

No picture-blind answer can do better than chance here, by construction: questions come in groups that share their
text, options and order and differ only in the picture, and in a group each option is right once. So whatever looks at
the text alone is right exactly once per group. In the shuffled file a whole group gets one other picture, so the same
holds there for whatever looks at text and picture.

Source of the format and of CircularEval: MMBench, https://arxiv.org/abs/2307.06281.
"""

import base64
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlmtool.demo import texts
from vlmtool.demo.drawing import blank_picture, draw, encode_jpeg
from vlmtool.demo.scenes import ATTRIBUTES, VALUES, Scene, minimal_pair, sample_scene

TEST_SEED = 20240701
NUM_GROUPS = {"frame": 28, "digit": 20}  # 28 groups of 3, 20 of 4; every other category has 21 groups of 4
NUM_OPTIONS = {"frame": 3}  # the others have 4
PAIRS_PER_ATTRIBUTE = 20
ROTATION_STEP = 1_000_000  # rotation r of question i has index i + r * ROTATION_STEP
COLUMNS = (
    "index",
    "question",
    "hint",
    *texts.LETTERS,
    "answer",
    "category",
    "image",
    "source",
    "l2-category",
    "comment",
    "split",
)
L2_CATEGORIES = {
    "object": "object", "colour": "object", "place": "object", "size": "object", "ground": "surroundings",
    "pattern": "surroundings", "frame": "surroundings", "digit": "handwriting",
}  # fmt: skip


@dataclass(frozen=True)
class BenchmarkQuestion:
    """A question with its picture; `group` is shared by the questions that differ in the picture alone."""

    choice: texts.Choice
    picture: bytes  # a JPEG file
    group: int
    comment: str = ""


def write_benchmark_files(test: Path, blank: Path, shuffled: Path, pairs: Path) -> None:
    """Write the test, the same with gray pictures, the same with other rows' pictures, and the minimal pairs."""
    rng = np.random.default_rng(TEST_SEED)
    questions = list(_test_questions(rng))
    gray = encode_jpeg(blank_picture())
    _write_tsv(test, questions, [question.picture for question in questions])
    _write_tsv(blank, questions, [gray] * len(questions))
    _write_tsv(shuffled, questions, _other_pictures(questions, rng))
    paired = list(_paired_questions(rng))
    _write_tsv(pairs, paired, [question.picture for question in paired], rotate=False)


def balanced_option_sets(
    values: Sequence[str], num_options: int, num_sets: int, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Option lists in random order in which every value occurs equally often (as far as the numbers divide)."""
    used = np.zeros(len(values))
    sets = []
    for _ in range(num_sets):
        rarest = np.lexsort((rng.random(len(values)), used))[:num_options]
        used[rarest] += 1
        sets.append(tuple(values[i] for i in rng.permutation(rarest)))
    return sets


def _test_questions(rng: np.random.Generator) -> Iterator[BenchmarkQuestion]:
    """All questions of the test, category by category, each group once around its options."""
    group = 0
    for attribute in ATTRIBUTES:
        num_groups, num_options = NUM_GROUPS.get(attribute, 21), NUM_OPTIONS.get(attribute, 4)
        for options in balanced_option_sets(VALUES[attribute], num_options, num_groups, rng):
            text = texts.free_question(attribute, rng)
            for answer, value in enumerate(options):
                scene = sample_scene(rng, held_out=True, fixed={attribute: value})
                choice = texts.Choice(attribute, text, options, answer)
                yield BenchmarkQuestion(choice, encode_jpeg(draw(scene, rng)), group)
            group += 1


def _other_pictures(questions: Sequence[BenchmarkQuestion], rng: np.random.Generator) -> list[bytes]:
    """For each question a picture of another group; the same one for the whole group."""
    num_groups = questions[-1].group + 1
    pictures = [[q.picture for q in questions if q.group == group] for group in range(num_groups)]
    giver = {group: (group + int(rng.integers(1, num_groups))) % num_groups for group in range(num_groups)}
    given = {group: pictures[giver[group]][rng.integers(len(pictures[giver[group]]))] for group in range(num_groups)}
    return [given[question.group] for question in questions]


def _paired_questions(rng: np.random.Generator) -> Iterator[BenchmarkQuestion]:
    """Two pictures that differ in one attribute alone, the same question, and so two different answers."""
    for attribute in ATTRIBUTES:
        for number in range(PAIRS_PER_ATTRIBUTE):
            one, other = _two_scenes(attribute, rng)
            values = [one.value(attribute), other.value(attribute)]
            rest = [v for v in VALUES[attribute] if v not in values]
            wrong = rng.choice(rest, NUM_OPTIONS.get(attribute, 4) - 2, replace=False)
            options = tuple(str(v) for v in rng.permutation([*values, *wrong]))
            text, seed = texts.free_question(attribute, rng), int(rng.integers(2**32))
            for scene in (one, other):
                choice = texts.Choice(attribute, text, options, options.index(scene.value(attribute)))
                picture = encode_jpeg(draw(scene, np.random.default_rng(seed)))  # the same jitter in both
                yield BenchmarkQuestion(choice, picture, number, comment=f"{attribute}_{number:02d}")


def _two_scenes(attribute: str, rng: np.random.Generator) -> tuple[Scene, Scene]:
    """A held-out scene and its minimal partner; some combinations have none, so draw until one has."""
    while True:
        scene = sample_scene(rng, held_out=True, digit_share=1.0 if attribute == "digit" else 0.3)
        try:
            return scene, minimal_pair(scene, attribute, rng)
        except ValueError:
            continue


def _write_tsv(
    path: Path, questions: Sequence[BenchmarkQuestion], pictures: Sequence[bytes], rotate: bool = True
) -> None:
    """Write questions and, after them, their rotations, which name the first row's index in place of a picture."""
    rows = []
    for index, (question, picture) in enumerate(zip(questions, pictures, strict=True), start=1):
        rotations = len(question.choice.options) if rotate else 1
        rows += [_row(question, index, r, picture) for r in range(rotations)]
    rows.sort(key=lambda row: int(row["index"]))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


def _row(question: BenchmarkQuestion, index: int, rotation: int, picture: bytes) -> dict[str, str]:
    """One row: the options shifted left by `rotation`, the answer moved with them."""
    options = question.choice.options
    shifted = options[rotation:] + options[:rotation]
    answer = (question.choice.answer - rotation) % len(options)
    return {
        **dict(zip(texts.LETTERS, (*shifted, *[""] * (len(texts.LETTERS) - len(options))), strict=True)),
        "index": str(index + rotation * ROTATION_STEP),
        "question": question.choice.question,
        "hint": "",
        "answer": texts.LETTERS[answer],
        "category": question.choice.attribute,
        "image": base64.b64encode(picture).decode() if rotation == 0 else str(index),
        "source": "vlmtool demo",
        "l2-category": L2_CATEGORIES[question.choice.attribute],
        "comment": question.comment,
        "split": "test",
    }
