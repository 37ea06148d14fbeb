"""Where an error was raised: in vlmtool, or in a file of the user's."""

import sysconfig
import traceback
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def place_of(error: BaseException) -> str:
    """`file:line` of the last place that the error passed in vlmtool or in code of the user's; empty where in none.

    Of a file that Python cannot parse it is the place in that file.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    return next((f"{frame.filename}:{frame.lineno}" for frame in reversed(frames) if _is_own(frame.filename)), "")


def _is_own(filename: str) -> bool:
    """Not of the standard library, nor of a package that is installed, but for vlmtool."""
    path = Path(filename).resolve()
    if not path.is_file():
        return False  # "<string>", "<frozen importlib._bootstrap>"
    return path.is_relative_to(PACKAGE) or not any(path.is_relative_to(folder) for folder in _INSTALLED)
