"""Classes that a recipe names."""

import importlib

from vlmtool.utils.errors import RecipeError, message_lines, shortened
from vlmtool.utils.places import place_of


def import_class(dotted: str, where: str) -> type:
    """The class at a dotted path.

    Args:
        where: the recipe key, for the error.

    Raises:
        RecipeError: there is none, or its module raised an error.
    """
    module, _, name = dotted.rpartition(".")
    if not module:
        raise RecipeError(
            f"{where} = '{shortened(dotted)}': not a dotted path.\n"
            "Give a class, or its module and name with dots between: package.module.Class"
        )
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # the module may be the user's own, which may raise anything
        if not _is_absent(error, module, name):
            raise RecipeError(
                f"{where} = '{dotted}': importing its module failed: {told(error)}\nMend that, then start again."
            ) from error
        raise RecipeError(
            f"{where} = '{dotted}': {error}.\nGive a class or its dotted path; its module must be on the Python path."
        ) from error


def is_own(dotted: str) -> bool:
    """Whether a dotted path is of vlmtool itself, and not of the user or of somebody else."""
    return dotted.startswith("vlmtool.")


def told(error: BaseException) -> str:
    """Name, message and place of an error in code of the user's."""
    place, message = place_of(error), getattr(error, "msg", None) or message_lines(error)[0]
    return f"{type(error).__name__}: {message}" + (f" ({place})" if place else "")


def _is_absent(error: Exception, module: str, name: str) -> bool:
    """The module or the class is not there, rather than that something in it went wrong."""
    if isinstance(error, ModuleNotFoundError):
        return error.name is not None and f"{module}.".startswith(f"{error.name}.")
    if isinstance(error, AttributeError):
        return error.name == name
    return isinstance(error, ValueError) and not module.strip(".")
