"""A rank whose launcher was killed: nobody is left to end it, and its work would go on unseen."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vlmtool.utils.failure import ERROR_FILE, LAUNCHED
from vlmtool.utils.terminal import err


@contextmanager
def following_launcher(look_every: float = 1.0) -> Iterator[None]:
    """While the block runs: SIGTERM to this process once vlmtool's launcher, which started it, is gone.

    A process that was started by anything else, such as torchrun or Slurm, is left to that.

    Args:
        look_every: seconds.
    """
    launcher = os.environ.get(LAUNCHED)
    if launcher is None:
        yield
        return
    end = threading.Event()
    follower = threading.Thread(target=_follow, args=(int(launcher), end, look_every), daemon=True, name="launcher")
    follower.start()
    try:
        yield
    finally:
        end.set()
        follower.join()


def _follow(launcher: int, end: threading.Event, look_every: float) -> None:
    ended = False
    while not ended:
        # One look after the end: another rank may have seen it first, and stopped this one with it.
        ended = end.wait(look_every)
        if os.getppid() == launcher:
            continue
        # The system gave this orphan another parent.
        os.environ.pop(ERROR_FILE, None)  # nobody reads it any more: errors go to stderr
        if os.environ.get("LOCAL_RANK", "0") == "0":
            with suppress(OSError):  # stderr may be gone as well
                err().print(f"The launcher (process {launcher}) is gone: its processes stop, as on SIGTERM.")
        if not ended:
            os.kill(os.getpid(), signal.SIGTERM)
        return
