"""What other tools pickle beside tensors, for reading their checkpoints without running anything of theirs."""

from typing import Any


class _Unread:
    """Gets everything for an object of the file that nobody needs, and keeps nothing of it."""

    def __init__(self, *values: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# What mmengine pickles beside tensors: histories of logged numbers, and numpy values in them. None of it is read, so
# nothing that the file names is called: each name gives the stand-in, and neither package has to be there.
# numpy 2 renamed numpy.core to numpy._core.
_NAMES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # of the methods of a history
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",  # of the bytes of a numpy array; torch allows it by itself
)
MMENGINE = dict.fromkeys(_NAMES, _Unread)
