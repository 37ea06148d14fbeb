"""The shipped recipes by name."""

import ast
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from vlmtool.utils.errors import RecipeError, UsageError, did_you_mean

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
WORK_DIRS = Path("work_dirs")  # where runs go that are told no other place


@dataclass(frozen=True)
class RecipeEntry:
    """A shipped recipe: its name, its file, the first line of its docstring."""

    name: str
    path: Path
    summary: str


def recipes(pattern: str = "*") -> list[RecipeEntry]:
    """The shipped recipes whose name contains `pattern` (or matches it as a shell pattern), sorted by name."""
    files = [f for f in CONFIGS.rglob("*.py") if f.name != "__init__.py" and "_base_" not in f.parts]
    wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    entries = [RecipeEntry(f.stem, f, _summary(f)) for f in files if fnmatch(f.stem, wanted)]
    return sorted(entries, key=lambda entry: entry.name)


def default_work_dir(name_or_path: str, root: Path = WORK_DIRS) -> Path:
    """Where the runs of a recipe go that is told no other folder."""
    return root / Path(name_or_path).stem


def find_recipe(name_or_path: str) -> Path:
    """The file of a shipped name (with or without `.py`) or of a path.

    Raises:
        UsageError: neither; RecipeError: the path is no Python file.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        if path.suffix != ".py":
            raise RecipeError(f"{name_or_path}: a recipe is a Python file (.py).\nShipped ones: `vlmtool config list`.")
        return path.resolve()
    names = {entry.name: entry.path for entry in recipes()}
    name = name_or_path.removesuffix(".py")
    if name in names:
        return names[name]
    raise UsageError(
        f"There is no recipe '{name_or_path}': neither a file nor a shipped name.{did_you_mean(name, names)}\n"
        "`vlmtool config list` shows the shipped ones."
    )


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.splitlines()[0] if docstring else ""
