"""Many processes give what one gives, in order; what goes wrong in one is told here."""

import os
import time
from functools import partial

import pytest

from vlmtool.utils.errors import DataError, VlmtoolError
from vlmtool.utils.workers import AHEAD, ordered_map


class Squares:
    """Squares a number; slowly, badly or fatally where asked."""

    def __init__(self, bad: int = -1, fatal: int = -1) -> None:
        self.bad, self.fatal = bad, fatal

    def __call__(self, number: int) -> tuple[int, int]:
        if number == self.bad:
            raise DataError(f"no square of {number}")
        if number == self.fatal:
            os._exit(9)
        time.sleep(0.02 * (number % 3 == 0))
        return number * number, os.getpid()


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_the_order_of_the_tasks(num_workers):
    with ordered_map(Squares, num_workers) as run:
        first, second = list(run(range(20))), list(run(range(5)))
    assert [square for square, _ in first] == [n * n for n in range(20)]
    assert [square for square, _ in second] == [n * n for n in range(5)]
    processes = {process for _, process in first}
    assert processes == {os.getpid()} if num_workers == 1 else os.getpid() not in processes and len(processes) > 1


def test_tasks_are_drawn_a_few_ahead():
    drawn = []
    with ordered_map(Squares, 2) as run:
        results = run(drawn.append(n) or n for n in range(1000))
        next(results)
        assert len(drawn) <= 2 * AHEAD + 1


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_is_raised_in_its_turn(num_workers):
    with ordered_map(partial(Squares, bad=3), num_workers) as run:
        results = run(range(10))
        assert [next(results)[0] for _ in range(3)] == [0, 1, 4]
        with pytest.raises(DataError, match="no square of 3"):
            next(results)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_the_tasks_comes_after_the_results_before_it(num_workers):
    def tasks():
        yield from range(4)
        raise DataError("the file ends here")

    done = []
    with ordered_map(Squares, num_workers) as run, pytest.raises(DataError, match="the file ends here"):
        for square, _ in run(tasks()):
            done.append(square)
    assert done == [0, 1, 4, 9]


def test_a_killed_worker_is_told():
    with ordered_map(partial(Squares, fatal=2), 2) as run, pytest.raises(VlmtoolError, match="was killed"):
        list(run(range(50)))
