"""What the checks before a training found, each an error, a warning or a word that it is fine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from vlmtool.utils.checklist import Row, error_row
from vlmtool.utils.errors import VlmtoolError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class PreflightReport:
    """What was found, in the order of the checks."""

    rows: list[Row] = field(default_factory=list)
    steps: int | None = None
    """Optimiser steps of the run, where they are known."""

    def attempt(self, what: str, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T | None:
        """What `function` returns; an error of it becomes a row, and None."""
        try:
            return function(*arguments, **options)
        except VlmtoolError as error:
            self.rows.append(error_row(what, error))
            return None

    def count(self, level: str) -> int:
        """Rows of a level."""
        return sum(row.level == level for row in self.rows)
