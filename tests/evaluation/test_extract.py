"""Each rule against a table of answers written down by hand."""

import pytest

from vlmtool.evaluation.extract import EXTRACTORS, find_extractor
from vlmtool.utils.errors import UsageError

COLOURS = {"A": "red", "B": "green", "C": "blue", "D": "dark blue"}
TWO = {"A": "red", "B": "green"}

CASES = [
    # prediction, options, vlmeval, xtuner, strict
    ("Answer: D", COLOURS, "D", "A", "D"),
    ("Because it is green", COLOURS, "B", "B", None),
    ("Cannot determine the answer", COLOURS, "Z", "C", None),
    ("blue", COLOURS, "C", None, None),
    ("dark blue", COLOURS, None, None, None),
    ("A or B", COLOURS, None, "A", None),
    ("选A", COLOURS, None, "A", "A"),
    ("答案是B。", COLOURS, None, "B", "B"),
    ("B</s>", COLOURS, None, "B", None),
    ("C", TWO, None, "C", None),
    ("The answer is blue", COLOURS, "B", None, None),
    ("", COLOURS, None, None, None),
    ("(B).", COLOURS, "B", "B", "B"),
    ("B. green", COLOURS, "B", "B", None),
    ("BC", COLOURS, None, "BC", None),
    ("b", COLOURS, None, None, None),
    ("Z", COLOURS, "Z", None, None),
    ("The answer is **C**", COLOURS, "C", "C", "C"),
    ("I'm sorry, but without the image provided, A", COLOURS, "Z", "A", None),
    ("cannot determine the answer", COLOURS, None, None, None),  # refusals are matched with their case
    (
        "A picture of a wall that has many tones",
        COLOURS,
        None,
        "A",
        None,
    ),  # too early for a letter, too long for a text
    ("so I would pick B in the end", COLOURS, "B", "B", None),  # fourth word from the end: late enough
    ("so I would pick B in the very end", COLOURS, None, "B", None),  # fifth: too early
    ("B and green and red and so on", COLOURS, None, "B", None),
    ("red and green", COLOURS, None, None, None),
    ("The answer is A or is it B", COLOURS, "A", "A", None),  # two letters: the pattern decides
    ("The answer is d", TWO, None, None, None),
]


@pytest.mark.parametrize(("prediction", "options", "vlmeval", "xtuner", "strict"), CASES)
def test_rules(prediction, options, vlmeval, xtuner, strict):
    assert {name: rule(prediction, options) for name, rule in EXTRACTORS.items()} == {
        "vlmeval": vlmeval,
        "xtuner": xtuner,
        "strict": strict,
    }


def test_unknown_rule_names_the_known_ones():
    with pytest.raises(UsageError, match="Did you mean 'vlmeval'"):
        find_extractor("vlmevalkit")
