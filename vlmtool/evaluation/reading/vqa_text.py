"""Short answers compared as VQA compares them: spelling evened out, and worth what people agreed on.

Source: the M4C evaluator, https://github.com/facebookresearch/mmf (pythia/tasks/processors.py at c46b3b33), as LLaVA's
llava/eval/m4c_evaluator.py uses it. Its flaws are kept: scores must be those that others publish.
"""

import re
from collections.abc import Sequence

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
# The evaluator passes re.UNICODE, which is 32, where re.sub takes the highest number of replacements.
_FULL_STOPS_REMOVED = 32

_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
# A word that lost one of its apostrophes gets it back.
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # fmt: skip  # the evaluator's table has this one the wrong way round


def normalize_answer(text: str) -> str:
    """An answer as it is compared: lower case, numbers as digits, no articles, no punctuation but inside numbers."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    words = strip_punctuation(text.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    numbers = [_NUMBERS.get(word, word) for word in words]
    return " ".join(_CONTRACTIONS.get(word, word) for word in numbers if word not in _ARTICLES)


def strip_punctuation(text: str) -> str:
    """VQA's punctuation rule: a mark beside a space goes, one inside a word becomes a space; "1,000" takes all away."""
    has_number = _NUMBER_WITH_COMMA.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        is_loose = mark + " " in text or " " + mark in text
        result = result.replace(mark, "" if is_loose or has_number else " ")
    return _FULL_STOP.sub("", result, count=_FULL_STOPS_REMOVED)


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Worth of an answer, 0 to 1: the mean, over leaving out each person in turn, of min(others who said so / 3, 1).

    Args:
        prediction: as the model gave it.
        answers: what people said, one each, 10 in the official files.
    """
    said = normalize_answer(prediction)
    matching = sum(normalize_answer(answer) == said for answer in answers)
    if not matching:
        return 0.0
    without_one_of_them = matching * min((matching - 1) / 3, 1.0)
    without_another = (len(answers) - matching) * min(matching / 3, 1.0)
    return (without_one_of_them + without_another) / len(answers)
