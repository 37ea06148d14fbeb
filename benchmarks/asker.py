"""How a training asks for its turn among others (`turns.py`); also where nothing but Python is installed."""

import socket


class Asker:
    """The connection to who gives the turns.

    Args:
        port: of this machine.
        name: of the training.
        stride: steps of a turn.
    """

    def __init__(self, port: int, name: str, stride: int) -> None:
        self.name, self.stride = name, stride
        self._line = socket.create_connection(("127.0.0.1", port)).makefile("rw")

    def wait(self) -> None:
        """Until it is this training's turn.

        Raises:
            SystemExit: nobody gives turns any more.
        """
        self._line.write(f"{self.name}\n")
        self._line.flush()
        if not self._line.readline():
            raise SystemExit("Whoever gave the turns has ended.")
