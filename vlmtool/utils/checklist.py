"""A list of what was checked, worst first: for a table in a terminal of 80 columns."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from vlmtool.utils.errors import VlmtoolError, message_lines
from vlmtool.utils.terminal import clean

Level = Literal["error", "warning", "ok"]
STYLES: dict[Level, str] = {"error": "bold red", "warning": "yellow", "ok": "green"}  # worst first


@dataclass(frozen=True)
class Row:
    """One thing that was checked: what it is, what was found, and how to mend it."""

    level: Level
    what: str
    detail: str
    remedy: str = ""

    def message(self) -> str:
        """Up to two lines, as an error has them."""
        return f"{self.what}: {self.detail}" + (f"\n{self.remedy}" if self.remedy else "")


def error_row(what: str, error: VlmtoolError) -> Row:
    """An error's message: its last line, where it has several, is the remedy."""
    lines = message_lines(error)
    detail = " ".join(lines[:-1] or lines).removeprefix(f"{what}: ")
    return Row("error", what, detail, lines[-1] if len(lines) > 1 else "")


def counted(number: int, what: str) -> str:
    """`1 checkpoint`, `1,200 checkpoints`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """Errors, warnings, then what is fine; rows of a level stay as they are."""
    levels = list(STYLES)
    return sorted(rows, key=lambda row: levels.index(row.level))


def checklist_table(rows: Iterable[Row]) -> Table:
    """A line for each row, its remedy below what was found."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in worst_first(rows):
        found = Text(clean(row.detail))
        if row.remedy and row.level != "ok":
            found.append(f"\n→ {clean(row.remedy)}", style="dim")
        table.add_row(Text(row.level, style=STYLES[row.level]), Text(clean(row.what)), found)
    return table
