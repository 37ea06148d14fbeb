"""Errors that a user can mend: what, where and how to fix it. The command line prints them without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class VlmtoolError(Exception):
    """Something went wrong once work had started."""

    exit_code = 1


class UsageError(VlmtoolError):
    """Knowable before work starts: an option, a recipe name or key, a path given on the command line."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be read, or says something vlmtool does not know."""


class DataError(VlmtoolError):
    """A record, an image or a data file that cannot be used as it is."""


class CheckpointError(VlmtoolError):
    """A checkpoint or model folder that is damaged, unsafe or belongs to other parts."""


def message_lines(error: BaseException) -> list[str]:
    """The lines of its message that are not empty, or its name: at least one."""
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


def shortened(text: str, longest: int = 100) -> str:
    """A quoted `text` of at most so many characters: of a longer one the middle is left out."""
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]} … {text[len(text) - half :]}"


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """`" Did you mean 'lora'?"` for the nearest of `choices`, or an empty string."""
    known = list(choices)
    begun = [choice for choice in known if choice.startswith(name)] if name else []
    nearest = begun if len(begun) == 1 else get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""
