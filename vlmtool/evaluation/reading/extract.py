"""From what the model said to the letter it chose. Rules by name, because tools disagree on them, and so do scores."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmtool.evaluation.reading.vqa_text import strip_punctuation
from vlmtool.utils.errors import UsageError, did_you_mean

# (prediction, {letter: option text}) -> letter, "Z" for a refusal, or None where nothing can be read out.
Extractor = Callable[[str, Mapping[str, str]], str | None]

REFUSAL = "Z"

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_FAILED_CALL = "Failed to obtain answer via API"
_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([A-D])", re.IGNORECASE)  # no word boundary: "answer is blue" reads as B


def vlmeval(prediction: str, options: Mapping[str, str]) -> str | None:
    """VLMEvalKit's exact matching without a judge, flaws included.

    Source: https://github.com/open-compass/VLMEvalKit, vlmeval/utils/matching_util.py at a67ace50.
    """
    return _vlmeval_letter(prediction, options) or _vlmeval_text(prediction, options)


def _vlmeval_letter(prediction: str, options: Mapping[str, str]) -> str | None:
    if _FAILED_CALL in prediction:
        return None
    if any(phrase in prediction for phrase in _REFUSALS):
        return REFUSAL
    tokens = prediction.translate(_PUNCTUATION).split()
    named = [letter for letter in options if letter in tokens]
    if len(named) == 1 and tokens.index(named[0]) >= len(tokens) - 4:
        return named[0]
    if not named and REFUSAL in tokens:
        return REFUSAL
    match = _ANSWER_IS.search(prediction)
    if match and match.group(1).upper() in options:
        return match.group(1).upper()
    return None


def _vlmeval_text(prediction: str, options: Mapping[str, str]) -> str | None:
    said = prediction.lower()
    if len(said) > 2 * sum(len(text) for text in options.values()):
        return None
    named = [letter for letter, text in options.items() if text.lower() in said]
    return named[0] if len(named) == 1 else None


_XTUNER = re.compile("[A-D]+")


def xtuner(prediction: str, options: Mapping[str, str]) -> str | None:
    """XTuner's rule: the first run of the letters A to D, anywhere ("Answer: D" reads as A). For its tables only.

    Source: https://github.com/InternLM/xtuner, xtuner/tools/mmbench.py.
    """
    match = _XTUNER.search(prediction)
    return match.group() if match else None


_MARKS = r"[\s.,:;!?*#'\"`()\[\]{}<>。，、：；！？（）【】《》“”‘’．]*"
_LEAD_IN = (
    r"(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+)?(?:answer|option|choice)(?:\s+is)?"
    r"|(?:正确)?(?:答案|选项)(?:是|为|选)?|(?:我|应)?选(?:择|项)?)"
)
_STRICT = re.compile(rf"{_MARKS}(?:{_LEAD_IN}{_MARKS})?((?<![A-Za-z])[A-Z]){_MARKS}", re.IGNORECASE)


def strict(prediction: str, options: Mapping[str, str]) -> str | None:
    """The whole answer is one valid capital letter; punctuation and lead-ins such as "Answer:" or 答案是 aside."""
    match = _STRICT.fullmatch(prediction)
    return match.group(1) if match and match.group(1) in options else None


YES_NO_RULE = "one of the words yes and no, not both"


def yes_no_words(prediction: str, options: Mapping[str, str]) -> str | None:
    """VLMEvalKit's rule for yes/no questions: one of the words "yes" and "no" stands in the answer, not both.

    Source: https://github.com/open-compass/VLMEvalKit, vlmeval/dataset/utils/yorn.py.
    """
    words = strip_punctuation(prediction.lower()).split()
    found = [word for word in ("Yes", "No") if word.lower() in words]
    return found[0] if len(found) == 1 else None


EXTRACTORS: dict[str, Extractor] = {"vlmeval": vlmeval, "xtuner": xtuner, "strict": strict}
ALL = "all"
LIKELIHOOD = "likelihood"
WAYS = ("generate", LIKELIHOOD)


@dataclass(frozen=True)
class Reading:
    """How the answers of a benchmark are read: by one rule, and by others whose scores stand beside its own."""

    name: str
    rule: Extractor
    beside: Mapping[str, Extractor] = field(default_factory=dict)

    @property
    def is_likelihood(self) -> bool:
        """The answers are options that the model chose by their likelihood; nothing has to be read out."""
        return self.name == LIKELIHOOD


def choose_reading(name: str | None, score: str, rules: Mapping[str, Extractor] = EXTRACTORS) -> Reading:
    """The rule of that name; "all" is the first one, with all of them beside it.

    Args:
        name: None takes the first.
        score: "generate" or "likelihood".

    Raises:
        UsageError: there is no such rule, or none is needed.
    """
    if score == LIKELIHOOD:
        if name is not None:
            raise UsageError(f"--extractor {name}: with --score likelihood there is no answer to read. Leave it out.")
        return Reading(LIKELIHOOD, _as_chosen)
    first = next(iter(rules))
    if name == ALL:
        return Reading(first, rules[first], rules)
    return Reading(name or first, find_extractor(name or first, rules))


def find_extractor(name: str, rules: Mapping[str, Extractor] = EXTRACTORS) -> Extractor:
    """The rule of that name.

    Raises:
        UsageError: there is none; the message lists them.
    """
    if name not in rules:
        names = (*rules, ALL)
        raise UsageError(
            f"--extractor {name}: no such rule.{did_you_mean(name, names)} Use one of: {', '.join(names)}."
        )
    return rules[name]


def chosen_by(benchmark: Any) -> str:
    """What the records of its answers say: "likelihood" where the model chooses, nothing where it writes."""
    return LIKELIHOOD if benchmark.extractor == LIKELIHOOD else ""


def check_way(way: str, *benchmarks: Any) -> None:
    """See that these benchmarks (or their classes) can be scored in that way.

    Raises:
        UsageError: there is no such way, or a benchmark has no options to choose from.
    """
    if way not in WAYS:
        raise UsageError(f"--score {way}: unknown.{did_you_mean(way, WAYS)} Use one of: {', '.join(WAYS)}.")
    open_ended = [benchmark.name for benchmark in benchmarks if not hasattr(benchmark, "choices")]
    if way == LIKELIHOOD and open_ended:
        raise UsageError(f"--score likelihood: {open_ended[0]} has no options to choose from. Leave it out.")


def _as_chosen(prediction: str, options: Mapping[str, str]) -> str:
    return prediction
