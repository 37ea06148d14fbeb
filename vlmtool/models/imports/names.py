"""Where the weights of other tools go: tables of rules, and the one function that reads them."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Left:
    """A weight that is not taken, and why."""

    reason: str


UNKNOWN = Left("of no part that vlmtool has")
COMPUTED = (r".*\b(?:rotary_emb\.inv_freq|rotary_pos_emb\.inv_freq|position_ids)$", Left("computed from the config"))

Rules = tuple[tuple[re.Pattern[str], str | Left], ...]
"""How a name begins, and what it begins with in vlmtool's model; the first rule that matches counts.

Names of vlmtool's model begin with `llm.`, `vision_encoder.model.` or `projector.`; below `projector.` they stay the
tool's own, which `projectors.find_projector` reads.
"""


def rules(*pairs: tuple[str, str | Left]) -> Rules:
    """A table from patterns and what takes their place (`\\1` is the first group)."""
    return tuple((re.compile(pattern), target) for pattern, target in pairs)


def place(table: Rules, name: str) -> str | Left:
    """The name of a weight in vlmtool's model."""
    for pattern, target in table:
        if match := pattern.match(name):
            return target if isinstance(target, Left) else match.expand(target) + name[match.end() :]
    return UNKNOWN
