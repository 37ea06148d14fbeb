"""Classes that a recipe names."""

import importlib

from vlmtool.utils.errors import RecipeError, shortened


def import_class(dotted: str, where: str) -> type:
    """The class at a dotted path.

    Args:
        where: the recipe key, for the error.

    Raises:
        RecipeError: there is none.
    """
    module, _, name = dotted.rpartition(".")
    if not module:
        raise RecipeError(
            f"{where} = '{shortened(dotted)}': not a dotted path.\n"
            "Give a class, or its module and name with dots between: package.module.Class"
        )
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(
            f"{where} = '{dotted}': {error}.\nGive a class or its dotted path; its module must be on the Python path."
        ) from error
