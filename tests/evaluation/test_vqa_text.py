"""Short answers as VQA compares them; the expected texts were worked out by hand from the published rule."""

import pytest

from vlmtool.evaluation.reading.vqa_text import normalize_answer, soft_accuracy, strip_punctuation


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Red\tBus\n", "red bus"),
        ("5.", "5"),
        ("3.5", "3.5"),
        ("7:30", "7:30"),
        ("1,000", "1000"),
        ("two", "2"),
        ("None", "0"),
        ("TEN apples", "10 apples"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),  # two apostrophes lost: the table does not know it
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),  # the table's own slip
        ("twas", "'twas"),
        ("it's", "it 's"),
        ("a", ""),
        ("an the a", ""),
        ("coca-cola", "coca cola"),
        ("coca- cola", "coca cola"),
        ("coca -cola", "coca cola"),
        ("x-y -z", "xy z"),  # one loose mark takes away every mark of its kind
        ('"open"', "open"),
        ("what?!", "what"),
        ("u.s.a.", "usa"),
        (". " * 40, ". . . . . . . ."),  # the rule takes 32 full stops away, not more
        ("", ""),
    ],
)
def test_normalize_answer(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("text", "stripped"), [("yes,no", "yes no"), ("yes, no", "yes no"), ("1,000/2", "10002"), ("1/2", "1 2")]
)
def test_strip_punctuation(text, stripped):
    assert strip_punctuation(text) == stripped


def leave_one_out(said: str, answers: list[str]) -> float:
    """The published rule, step by step."""
    worths = []
    for left_out in range(len(answers)):
        others = answers[:left_out] + answers[left_out + 1 :]
        worths.append(min(others.count(said) / 3, 1))
    return sum(worths) / len(worths) if said in answers else 0.0


@pytest.mark.parametrize("agreeing", range(11))
def test_soft_accuracy_is_the_leave_one_out_mean(agreeing):
    answers = ["red"] * agreeing + ["blue"] * (10 - agreeing)
    assert soft_accuracy("The red.", answers) == pytest.approx(leave_one_out("red", answers), abs=1e-12)


def test_soft_accuracy_by_hand():
    # 2 of 10 said so: left out himself, 1 other remains (1/3, twice); left out another, 2 remain (2/3, eight times).
    assert soft_accuracy("red", ["red", "Red", *["x"] * 8]) == pytest.approx((2 / 3 + 16 / 3) / 10)
    assert soft_accuracy("red", ["red"] * 4 + ["x"] * 6) == 1
    assert soft_accuracy("green", ["red"] * 10) == 0
