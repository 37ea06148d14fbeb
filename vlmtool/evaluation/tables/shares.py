"""Shares of right answers, overall and by the names that the rows have."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from vlmtool.evaluation.tables.picture_table import Row

Extracted = Mapping[int, str | None]  # by index, what was read out of an answer


def hit_of(row: Row, extracted: Extracted) -> int | None:
    """1 for right, 0 for wrong, None where the data has no answer."""
    return int(extracted[row.index] == row.answer) if row.answer else None


def shares(judged: Sequence[tuple[Row, int]], kinds: Mapping[str, Callable[[Row], str]]) -> dict[str, float]:
    """Share of right rows: Overall, then by each kind of name. Rows without a name count in Overall only.

    Args:
        kinds: what a name is called, in case that two kinds have the same one, and how a row is named.
    """
    scores = {"Overall": mean([hit for _, hit in judged])} if judged else {}
    for kind, name_of in kinds.items():
        groups: dict[str, list[int]] = defaultdict(list)
        for row, hit in judged:
            if name_of(row):
                groups[name_of(row)].append(hit)
        scores |= {f"{name} ({kind})" if name in scores else name: mean(groups[name]) for name in sorted(groups)}
    return scores


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)
