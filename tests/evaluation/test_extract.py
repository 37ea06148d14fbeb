"""Each rule against a table of answers written down by hand."""

import pytest

from vlmtool.evaluation.reading.extract import EXTRACTORS, choose_reading, find_extractor, strict, vlmeval
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


REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


@pytest.mark.parametrize("phrase", REFUSALS)
def test_refusals_are_read_before_any_letter(phrase):
    assert vlmeval(f"B. {phrase}", COLOURS) == "Z"
    assert vlmeval(f"B. {phrase.lower()}", COLOURS) != "Z"


@pytest.mark.parametrize("mark", ".()[],:;!*#{}")
def test_marks_around_a_letter_are_stripped(mark):
    assert vlmeval(f"{mark}D{mark}", COLOURS) == "D"


@pytest.mark.parametrize("mark", "/\"'-?`。")
def test_other_marks_are_not(mark):
    assert vlmeval(f"{mark}D{mark}", COLOURS) is None


@pytest.mark.parametrize(
    ("prediction", "options", "letter"),
    [
        ("ANSWER IS c or so", COLOURS, "C"),  # any case
        ("answer is  **b**", COLOURS, "B"),
        ("answer is c, or B", COLOURS, "B"),  # one capital letter alone comes first
        ("answer is E, not A", COLOURS | {"E": "pink"}, None),  # the pattern ends at D
        ("E", COLOURS | {"E": "pink"}, "E"),
        ("Z or A", COLOURS, "A"),  # a letter beside Z counts
        ("red" + "." * 5, {"A": "red", "B": "x"}, "A"),  # 8 characters: as long as both options, twice
        ("red" + "." * 6, {"A": "red", "B": "x"}, None),
        ("Failed to obtain answer via API. A", COLOURS, None),
        ("RED", COLOURS, "A"),
    ],
)
def test_vlmevals_further_rules(prediction, options, letter):
    assert vlmeval(prediction, options) == letter


@pytest.mark.parametrize(
    "said", ["Answer: B", "The answer is B.", "答案：B", "正确答案是B", "我选B", "(B)", "“B”", " B\n"]
)
def test_strict_takes_a_letter_with_its_lead_in(said):
    assert strict(said, COLOURS) == "B"


@pytest.mark.parametrize("said", ["B green", "AB", "a", "Answer: b", "B or C", "IB", "不选B", "E", "BC", "Because"])
def test_strict_takes_nothing_else(said):
    assert strict(said, COLOURS) is None


def test_all_is_the_first_rule_with_all_beside_it():
    reading = choose_reading("all", "generate")
    assert (reading.name, reading.rule, list(reading.beside)) == ("vlmeval", vlmeval, ["vlmeval", "xtuner", "strict"])
    assert not choose_reading(None, "generate").beside and choose_reading(None, "generate").name == "vlmeval"
    assert choose_reading("strict", "generate").rule is strict


def test_chosen_options_are_taken_as_they_are():
    reading = choose_reading(None, "likelihood")
    assert reading.is_likelihood and reading.rule("B", COLOURS) == "B"
    with pytest.raises(UsageError, match="no such rule"):
        choose_reading("likelihood", "generate")  # generated answers are never called chosen


def test_unknown_rule_names_the_known_ones():
    with pytest.raises(UsageError, match="Did you mean 'vlmeval'"):
        find_extractor("vlmevalkit")
