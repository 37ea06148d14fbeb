"""How a command ends: its exit code, and at most three lines on stderr when it failed."""

import errno
import os
import sys
import traceback
from typing import Any

import typer

from vlmtool.utils.errors import VlmtoolError, did_you_mean, message_lines
from vlmtool.utils.failure import report
from vlmtool.utils.places import place_of
from vlmtool.utils.terminal import clean

# The base of every complaint about a command line: typer exports it by name only since 0.29.
CommandLineError: type[Any] = typer.BadParameter.__mro__[2]
# Errors of the system that the user can mend, and how.
_MENDABLE = {
    errno.ENOSPC: "Make room on the disk",
    errno.EDQUOT: "Make room: the quota is used up",
    errno.EROFS: "Give a folder that can be written",
    errno.EACCES: "Ask for the right to this file, or give another folder",
    errno.EPERM: "Ask for the right to this file, or give another folder",
    errno.EIO: "Look at the disk (`dmesg`)",
}
LONGEST = 600  # characters of one line: a message may quote a whole record


def invoke(app: typer.Typer, arguments: list[str], debug: bool) -> int:
    """Run `arguments` as a vlmtool command line; the exit code comes back, what went wrong stands on stderr.

    `SystemExit` passes through: a run that saved itself on a signal chose its own code.
    """
    try:
        result = app(args=arguments, prog_name="vlmtool", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `vlmtool config list | head -1`: nobody reads any more
        _drop_stdout()
        return 1
    except typer.Abort as stop:  # typer before 0.29 turns Ctrl-C into this
        return 130 if isinstance(stop.__cause__, KeyboardInterrupt) else 1
    except CommandLineError as error:
        return _fail(error, usage_lines(error), error.exit_code, debug)
    except VlmtoolError as error:
        return _fail(error, error_lines(error), error.exit_code, debug)
    except OSError as error:
        return _fail(error, system_lines(error), 1, debug)
    except Exception as error:  # the last resort: a defect of ours must still read like an error, not like a crash
        return _fail(error, defect_lines(error), 1, debug)
    return result if isinstance(result, int) else 0


def error_lines(error: VlmtoolError) -> list[str]:
    """The message of an expected error; of more than three lines the first two and the last, which is the remedy."""
    lines = message_lines(error)
    return lines if len(lines) <= 3 else [*lines[:2], lines[-1]]


def usage_lines(error: Any) -> list[str]:
    """What is wrong with the command line, the nearest name, and where its help is."""
    context = getattr(error, "ctx", None)
    message = error.message if hasattr(error, "possibilities") else error.format_message()
    what = " ".join(message.split())
    if context is None:
        return [what, "Add --help to the command for what it takes."]
    if hasattr(error, "possibilities"):  # an unknown option
        options = [name for option in context.command.params for name in (*option.opts, *option.secondary_opts)]
        what = f"{what}.{did_you_mean(getattr(error, 'option_name', ''), options)}"
    commands = getattr(context.command, "commands", {})
    if what == "Missing command.":
        what += f" Choose from: {', '.join(name for name, command in commands.items() if not command.hidden)}."
    usage = " ".join(context.get_usage().split())
    return [what, usage, f"Try '{context.command_path} --help'."]


def system_lines(error: OSError) -> list[str]:
    """A full disk, a folder that may not be written: what the system says, of which file."""
    if error.errno not in _MENDABLE or error.filename is None:
        return defect_lines(error)
    what = f"{error.filename}: {error.strerror}."
    return [what, f"{_MENDABLE[error.errno]}, then run the same command again."]


def defect_lines(error: Exception) -> list[str]:
    """An exception that nobody expected: its name, the last place that it passed here, and how to see more."""
    message = next((line for line in str(error).splitlines() if line.strip()), "")
    what = f"{type(error).__name__}: {message}" if message else type(error).__name__
    where = place_of(error) or "outside vlmtool"
    return [what, f"Raised in {where}.", "Run again with --debug for the traceback."]


def _fail(error: Exception, lines: list[str], exit_code: int, debug: bool) -> int:
    """Print the error, with its traceback before it under `--debug`."""
    if debug:
        print(clean("".join(traceback.format_exception(error))), file=sys.stderr)
    report([line if len(line) <= LONGEST else line[: LONGEST - 2] + " …" for line in lines])
    return exit_code


def _drop_stdout() -> None:
    """Point stdout nowhere, so that the interpreter's last flush does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
