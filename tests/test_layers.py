"""The house keeps its walls: imports point down, the command line stays light, files stay short."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vlmtool"
FILES = sorted(PACKAGE.rglob("*.py"))

# Which folders a folder may import besides itself. cli may import all of them, and nobody imports cli.
MAY = {
    "utils": set(),
    "recipe": {"utils"},
    "models": {"utils"},
    "data": {"utils"},
    "chat": {"models", "data", "recipe", "utils"},
    "evaluation": {"chat", "models", "data", "recipe", "utils"},
    "engine": {"evaluation", "chat", "models", "data", "recipe", "utils"},
    "convert": {"evaluation", "chat", "models", "data", "recipe", "utils"},
    "serve": {"chat", "models", "data", "recipe", "utils"},
    "demo": {"evaluation", "chat", "models", "data", "recipe", "utils"},
    "integrations": {"evaluation", "chat", "models", "data", "recipe", "utils"},
    "pipeline": {"engine", "convert", "evaluation", "chat", "models", "data", "recipe", "utils"},
    # Recipes are data: besides one another they name only the classes that `type=` wants.
    "configs": {"engine", "models", "data", "demo"},
}
MAY["cli"] = set(MAY)
LIGHT = {*sys.stdlib_module_names, "typer"}
LIGHT_PARTS = {"cli", "utils", "version"}  # of vlmtool


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def folder_of(file: Path) -> str:
    """`models` for vlmtool/models/vlm.py, an empty string for a file of the package's root."""
    parts = file.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports(nodes: Iterator[ast.AST], file: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every name imported by `nodes`: `from a import b` gives `a.b`."""
    package = file.relative_to(ROOT).parent.parts
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def at_import_time(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Statements that run when the module is imported: not those in functions, nor under TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import_time(node.orelse)
            continue
        yield node
        for name in ("body", "orelse", "finalbody"):
            yield from at_import_time(getattr(node, name, []))
        for handler in getattr(node, "handlers", []):
            yield from at_import_time(handler.body)


def is_light_part(name: str) -> bool:
    package, part = [*name.split("."), ""][:2]
    return package == "vlmtool" and part in LIGHT_PARTS


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def test_every_folder_has_its_place():
    folders = {folder_of(file) for file in FILES} - {""}
    assert folders <= set(MAY), "give the new folder a line in MAY and in docs/architecture.md"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_down(file: Path):
    folder = folder_of(file)
    allowed = MAY[folder] | {folder, "version", "__version__"} if folder else {"version", "cli"}
    wrong = [
        f"{name_of(file)}:{line} imports {name}"
        for line, name in imports(ast.walk(parse(file)), file)
        if name.startswith("vlmtool.") and name.split(".")[1] not in allowed
    ]
    assert not wrong


def test_only_the_engine_imports_the_runner():
    wrong = [
        f"{name_of(file)}:{line} imports {name}"
        for file in FILES
        if folder_of(file) != "engine"
        for line, name in imports(ast.walk(parse(file)), file)
        if name == "mmengine" or (name.startswith("mmengine.") and name.split(".")[1] in {"runner", "_strategy"})
    ]
    assert not wrong


@pytest.mark.parametrize("file", [file for file in FILES if folder_of(file) == "cli"], ids=name_of)
def test_commands_import_nothing_heavy_before_they_run(file: Path):
    heavy = [
        f"{name_of(file)}:{line} imports {name} at module level"
        for line, name in imports(at_import_time(parse(file).body), file)
        if name.split(".")[0] not in LIGHT and not is_light_part(name)
    ]
    assert not heavy


@pytest.mark.parametrize("file", [file for file in FILES if folder_of(file) != "configs"], ids=name_of)
def test_no_file_outgrows_its_subject(file: Path):
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{name_of(file)} has {lines} lines: split it by subject"
