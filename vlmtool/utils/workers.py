"""The same function in several processes, its results in the order of what it was given."""

import gc
import multiprocessing
import os
import queue
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from vlmtool.utils.errors import VlmtoolError

T = TypeVar("T")
R = TypeVar("R")
YOUNG = 50_000  # objects that a worker makes before it looks for rubbish: Python's 700 is half a list of tokens
AHEAD = 3  # tasks that wait for each worker, so that none is idle; more would only fill the memory


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def ordered_map(
    make: Callable[[], Callable[[T], R]], num_workers: int
) -> Iterator[Callable[[Iterable[T]], Iterator[R]]]:
    """Yield a `map` whose calls run in `num_workers` processes; with one, in this one.

    Tasks are drawn a few ahead, never all. What drawing them or a call raises is raised in its turn.

    Args:
        make: makes the function, once in each process; it, the tasks and the results must be picklable.

    Raises:
        VlmtoolError: a process was killed, as the system does when memory ends.
    """
    if num_workers == 1:
        function = make()
        yield lambda tasks: map(function, tasks)
        return
    idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
    workers = [_start(make) for _ in range(num_workers)]
    for _, connection in workers:
        idle.put(connection)

    def call(task: T) -> R:
        connection = idle.get()
        try:
            connection.send(task)
            result, error = connection.recv()
        except (EOFError, OSError) as lost:
            raise VlmtoolError("A worker process was killed.\nDid the memory run out? Free some, try again.") from lost
        finally:
            idle.put(connection)
        if error is not None:
            raise error
        return result

    threads = ThreadPoolExecutor(num_workers)
    try:
        yield lambda tasks: _in_order(threads, call, tasks, num_workers * AHEAD)
    finally:
        for process, _ in workers:
            process.terminate()
        threads.shutdown(cancel_futures=True)
        for process, connection in workers:
            process.join()
            connection.close()


def _start(make: Callable[[], Callable[[Any], Any]]) -> tuple[BaseProcess, Connection]:
    """A worker, and the connection to it."""
    # Not fork: this process has threads. Not spawn: the imports would be paid for by every worker.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([getattr(make, "func", make).__module__])
    resource_tracker.ensure_running()  # first, since it lets SIGINT through again
    waiting = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the workers inherit it: Ctrl-C is ours
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, waiting)
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(make, theirs), daemon=True)
    process.start()
    theirs.close()  # so that we read an end of file when the worker is gone
    return process, ours


def _in_order(threads: ThreadPoolExecutor, call: Callable[[T], R], tasks: Iterable[T], ahead: int) -> Iterator[R]:
    waiting: deque[Future[R]] = deque()
    remaining = iter(tasks)
    failure: Exception | None = None
    more = True
    while more or waiting:
        while more and len(waiting) < ahead:
            try:
                waiting.append(threads.submit(call, next(remaining)))
            except StopIteration:
                more = False
            except Exception as error:  # of the tasks' source: raised when what came before it is done
                more, failure = False, error
        if waiting:
            yield waiting.popleft().result()
    if failure is not None:
        raise failure


def _serve(make: Callable[[], Callable[[Any], Any]], connection: Connection) -> None:
    """Answer tasks until the parent is gone."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes already share the cores
    function: Callable[[Any], Any] | None = None
    gc.freeze()  # the imports stay; looking for rubbish among them would cost one part in twenty
    gc.set_threshold(YOUNG)
    with suppress(EOFError, OSError):
        while True:
            task = connection.recv()
            answer: tuple[Any, Exception | None]
            try:
                function = function or make()
                answer = function(task), None
            except Exception as error:  # whatever it is, it is the caller's
                answer = None, error
            connection.send(answer)
