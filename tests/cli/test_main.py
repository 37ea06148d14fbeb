"""The command line as a whole: it is light, it is clear about mistakes, it ends with the right code."""

import errno
import os
import subprocess
import sys

import pytest
import typer

from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import take_debug
from vlmtool.utils.errors import DataError, UsageError
from vlmtool.utils.files import naming
from vlmtool.version import __version__

HEAVY = ("torch", "transformers", "mmengine", "pandas", "numpy", "peft", "PIL", "deepspeed")


def vlmtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A real `vlmtool` process."""
    return subprocess.run([sys.executable, "-m", "vlmtool", *arguments], capture_output=True, text=True, timeout=60)


def raising(error: BaseException) -> typer.Typer:
    """A command line whose command `go` fails with `error`."""
    app = typer.Typer()

    @app.callback()
    def options() -> None:
        """Only here so that `go` stays a command of its own."""

    @app.command()
    def go(steps: int = 1, save_every: int = 1) -> None:
        raise error

    return app


def test_version():
    done = vlmtool("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"vlmtool {__version__}\n", "")


def test_help_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from vlmtool.cli.main import run\n"
        "sys.argv = ['vlmtool', '--help']\n"
        "try:\n    run()\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr == "[]\n"
    for command in ("train", "convert", "chat", "mmbench", "config", "data", "demo", "--debug"):
        assert command in done.stdout
    assert "list-cfg" not in done.stdout  # an alias for people who know it


def test_no_arguments_is_help():
    done = vlmtool()
    assert done.returncode == 0
    assert done.stdout == vlmtool("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["config", "lst"], "Did you mean 'list'?"),
        (["config"], "Choose from: list, show, copy."),
        (["config", "list", "--patern", "x"], "Did you mean '--pattern'?"),
        (["config", "show"], "Missing argument"),
        (["config", "show", "a_recipe", "too", "many"], "unexpected extra argument"),
        (["config", "list", "--pattern"], "requires an argument"),
    ],
)
def test_usage_errors_take_three_lines(arguments: list[str], said: str):
    done = vlmtool(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 3
    assert "--help" in done.stderr
    assert done.stdout == ""


def test_a_value_of_the_wrong_type_is_a_usage_error(capsys):
    assert invoke(raising(RuntimeError("not reached")), ["go", "--steps", "many"], debug=False) == 2
    said = capsys.readouterr().err
    assert "--steps" in said and "integer" in said
    assert len(said.splitlines()) <= 3


@pytest.mark.parametrize(("kind", "code"), [(DataError, 1), (UsageError, 2)])
def test_expected_errors_have_their_code_and_no_traceback(kind, code, capsys):
    assert invoke(raising(kind("a.json:3: no image.\nAdd it.")), ["go"], debug=False) == code
    assert capsys.readouterr().err == "Error: a.json:3: no image.\nAdd it.\n"


def test_a_long_message_keeps_its_remedy(capsys):
    message = "\n".join(["what", "where", "a detail", "another detail", "how to fix it"])
    invoke(raising(DataError(message)), ["go"], debug=False)
    assert capsys.readouterr().err == "Error: what\nwhere\nhow to fix it\n"


def test_a_message_cannot_steer_the_terminal(capsys):
    invoke(raising(DataError("sample '\x1b[2J\x1b]0;title\x07evil'")), ["go"], debug=False)
    assert capsys.readouterr().err == "Error: sample 'evil'\n"


def test_an_unexpected_exception_names_itself(capsys):
    assert invoke(raising(ZeroDivisionError("by zero\nsecond line")), ["go"], debug=False) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Error: ZeroDivisionError: by zero"
    assert lines[-1] == "Run again with --debug for the traceback."
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("number", "told", "remedy"),
    [
        (errno.ENOSPC, "No space left on device", "Make room on the disk"),
        (errno.EROFS, "Read-only file system", "Give a folder that can be written"),
    ],
)
def test_what_the_system_refuses_is_no_defect(capsys, number, told, remedy):
    def write(path: str) -> None:
        with naming(path):
            raise OSError(number, os.strerror(number))

    try:
        write("w/a.jsonl")
    except OSError as error:
        assert invoke(raising(error), ["go"], debug=False) == 1
    said = [f"Error: w/a.jsonl: {told}.", f"{remedy}, then run the same command again."]
    assert capsys.readouterr().err.splitlines() == said
    assert invoke(raising(OSError("of no file")), ["go"], debug=False) == 1
    assert "Run again with --debug" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys):
    assert invoke(raising(DataError("no image")), ["go"], debug=True) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert said.endswith("Error: no image\n")


def test_interrupt_is_quiet(capsys):
    assert invoke(raising(KeyboardInterrupt()), ["go"], debug=False) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_command_may_choose_its_exit_code():
    assert invoke(raising(typer.Exit(7)), ["go"], debug=False) == 7
    with pytest.raises(SystemExit, match="143"):  # a run that saved itself after SIGTERM
        invoke(raising(SystemExit(143)), ["go"], debug=False)


def test_debug_may_stand_anywhere_but_behind_two_dashes(monkeypatch):
    monkeypatch.delenv("VLMTOOL_DEBUG", raising=False)
    assert take_debug(["train", "x", "--debug"]) == (["train", "x"], True)
    assert take_debug(["chat", "--", "--debug"]) == (["chat", "--", "--debug"], False)
    assert take_debug(["train"]) == (["train"], False)
    monkeypatch.setenv("VLMTOOL_DEBUG", "1")
    assert take_debug(["train"]) == (["train"], True)


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m vlmtool config list | head -0; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
