"""How many samples are answered at once: as many as memory has room for."""

import psutil
import torch

from vlmtool.utils.errors import VlmtoolError
from vlmtool.utils.memory import peak_rss
from vlmtool.utils.terminal import err

FIRST = 8  # where "auto" begins
MOST_ON_CPU = 32  # more rows at once do not make a CPU faster
MOST = 512
FULL = 0.7  # of the memory; what is beyond it is left to longer answers


class BatchSize:
    """A number that is halved when memory ends, and that grows while there is room.

    Args:
        fixed: the number to keep to; None finds one.
    """

    def __init__(self, fixed: int | None) -> None:
        self.value = FIRST if fixed is None else fixed
        self._grows = fixed is None
        self._most = MOST if torch.cuda.is_available() else MOST_ON_CPU
        self._at_rest = _peak()

    def grow(self) -> None:
        """A batch was answered: twice as many next time, if the memory they would take is there."""
        if self._grows and self.value < self._most:
            twice = self._at_rest + 2 * (_peak() - self._at_rest)
            if twice < FULL * _memory():
                self.value *= 2

    def shrink(self, error: Exception) -> None:
        """A batch did not fit: half as many from now on.

        Raises:
            VlmtoolError: not even one sample fits. Whatever else `error` is, it is raised again.
        """
        if not is_out_of_memory(error):
            raise error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.value == 1:
            raise VlmtoolError(
                "The memory is too small for even one question at a time.\n"
                "Load the model smaller (--bits 4), or shorten the answers (--max-new-tokens)."
            ) from error
        self.value //= 2
        self._grows = False
        err().print(f"Memory ended: going on with {self.value} questions at once.")


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ended, on a GPU or on the CPU, whose allocator has no exception of its own."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _peak() -> int:
    """Most bytes in use so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_rss()


def _memory() -> int:
    """Bytes that this process could use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return psutil.Process().memory_info().rss + psutil.virtual_memory().available
