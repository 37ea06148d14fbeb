"""`vlmtool config`: what it prints and writes, called as the command line calls it."""

from pathlib import Path

import pytest

from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app

NAME = "llava_vicuna_7b_v15_pretrain"


def vlmtool(*arguments: str) -> int:
    return invoke(app, list(arguments), debug=False)


def test_list_has_two_lines_per_recipe(capsys):
    from vlmtool.recipe.catalog import recipes

    assert vlmtool("config", "list") == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == [entry.name for entry in recipes()]
    assert all(line.startswith(" ") for line in lines[1::2])


@pytest.mark.parametrize("pattern", ["v15_pretrain", "llava_vicuna*"])
def test_list_narrows(pattern, capsys):
    assert vlmtool("list-cfg", "-p", pattern) == 0
    names = capsys.readouterr().out.splitlines()[1::2]
    assert NAME in names
    assert all(pattern.rstrip("*") in name for name in names)


def test_list_says_that_nothing_matches(capsys):
    assert vlmtool("config", "list", "-p", "llava_vicuna_7b_v15_pretrane") == 2
    assert f"Did you mean '{NAME}'?" in capsys.readouterr().err


def test_show_prints_a_recipe_that_loads(tmp_path: Path, capsys):
    from vlmtool.recipe.load import load_recipe, recipe_values

    assert vlmtool("config", "show", NAME, "--set", "schedule.lr=0.5") == 0
    shown = tmp_path / "shown.py"
    shown.write_text(capsys.readouterr().out, encoding="utf-8")
    assert recipe_values(load_recipe(str(shown))) == recipe_values(load_recipe(NAME, ["schedule.lr=0.5"]))


def test_show_expanded(capsys):
    assert vlmtool("config", "show", NAME, "--expanded") == 0
    assert capsys.readouterr().out.startswith("{")


@pytest.mark.parametrize("command", [["config", "copy"], ["copy-cfg"]])
def test_copy_stands_alone(command, tmp_path: Path, capsys):
    from vlmtool.recipe.load import load_recipe, recipe_values

    assert vlmtool(*command, NAME, str(tmp_path / "mine")) == 0
    written = Path(capsys.readouterr().out.strip())
    assert written == tmp_path / "mine" / f"{NAME}_copy.py"
    assert "read_base" not in written.read_text(encoding="utf-8")
    assert recipe_values(load_recipe(str(written))) == recipe_values(load_recipe(NAME))


def test_copy_to_a_file(tmp_path: Path, capsys):
    assert vlmtool("config", "copy", NAME, str(tmp_path / "mine.py")) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "mine.py")
    assert vlmtool("config", "show", str(tmp_path / "mine.py")) == 0


def test_copy_does_not_overwrite_unasked(tmp_path: Path, capsys):
    assert vlmtool("config", "copy", NAME, str(tmp_path)) == 0
    copy = tmp_path / f"{NAME}_copy.py"
    copy.write_text("mine", encoding="utf-8")
    assert vlmtool("config", "copy", NAME, str(tmp_path)) == 2
    assert "--force" in capsys.readouterr().err
    assert copy.read_text(encoding="utf-8") == "mine"
    assert vlmtool("config", "copy", NAME, str(tmp_path), "--force") == 0
    assert copy.read_text(encoding="utf-8") != "mine"


def test_copy_needs_a_folder(tmp_path: Path, capsys):
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    assert vlmtool("config", "copy", NAME, str(file)) == 2
    said = capsys.readouterr().err
    assert str(file) in said and len(said.splitlines()) <= 3


def test_unknown_names_and_keys(capsys):
    assert vlmtool("config", "show", "llava_vicuna_7b_v15_pretrane") == 2
    assert f"Did you mean '{NAME}'?" in capsys.readouterr().err
    assert vlmtool("config", "show", NAME, "--set", "schedule.lrr=1") == 2
    said = capsys.readouterr().err
    assert "lrr" in said and len(said.splitlines()) <= 3
