"""How many inputs a property gets, how long one may take, and what may come out."""

import io
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from vlmtool.cli.invoke import error_lines, invoke
from vlmtool.cli.main import app
from vlmtool.utils.errors import VlmtoolError

T = TypeVar("T")

TOTAL = 500  # inputs of all properties together in `make test`, the same every time
WANTED = int(os.environ.get("VLMTOOL_FUZZ", TOTAL))
SECONDS = 20  # for one input. It catches what never ends, not what is slow: machines are busy
DEFECT = "Run again with --debug for the traceback."  # the last line of an error that nobody expected


def fuzz(share: int, **inputs: SearchStrategy) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test of a property: it gets `share` of every `TOTAL` inputs."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        profile = settings(
            max_examples=math.ceil(share * WANTED / TOTAL),
            derandomize=WANTED == TOTAL,
            database=None,
            deadline=None,
            print_blob=True,
            # The machine's speed is not the property; files are written anew for each input.
            suppress_health_check=[
                HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example,
                HealthCheck.function_scoped_fixture,
            ],
        )  # fmt: skip
        return profile(given(**inputs)(_ends()(test)))

    return decorate


@contextmanager
def _ends() -> Iterator[None]:
    def stop(signum: int, frame: object) -> None:
        raise AssertionError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(act: Callable[[], T]) -> T | VlmtoolError:
    """What `act` gives, or the error that a user can mend. Anything else is raised."""
    try:
        return act()
    except VlmtoolError as error:
        assert_readable(error)
        return error


def assert_readable(error: VlmtoolError) -> None:
    """An error is told in one to three lines."""
    assert 1 <= len(error_lines(error)) <= 3


def run_command(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process; both streams are as strict as a terminal's."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = invoke(app, list(arguments), debug=False)
    printed, said = (_content(stream.buffer) for stream in (out, err))
    assert DEFECT not in said, said
    assert code in (0, 1, 2)
    assert not any(char in printed + said for char in "\x00\x1b\x9b\u202e"), "a control reaches the terminal"
    lines = said.splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith("Error: ")), len(lines))
    assert len(lines) - first <= 3, said
    return code, printed, said


def _content(buffer: Any) -> str:
    return buffer.getvalue().decode("utf-8")
