"""What can be told of a recipe before torch is imported, which takes seconds: are the paths there that it names?"""

from collections.abc import Iterator
from pathlib import Path

from vlmtool.recipe.schema import Recipe
from vlmtool.utils.checklist import Row
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import check_writable, no_file
from vlmtool.utils.hub import local_folder


def check_paths(recipe: Recipe, work_dir: Path) -> None:
    """Parts, data and work dir are where the recipe and the command say.

    Raises:
        UsageError: one is not.
    """
    check_writable(work_dir, "--work-dir")
    for part, path in recipe.paths.items():
        local_folder(path, f"{part}.path")
    for row in missing_files(recipe):
        raise UsageError(row.message())


def missing_files(recipe: Recipe) -> Iterator[Row]:
    """Files and folders of the data that are not there."""
    data = recipe.data
    for key, path in (("data.path", data.path), ("data.val_path", data.val_path)):
        if path is not None and not Path(path).is_file():
            yield Row("error", key, no_file(path), f"Point to it: --set {key}=FILE")
    if not Path(data.image_folder).is_dir():
        told = f"there is no folder '{data.image_folder}'"
        yield Row("error", "data.image_folder", told, "Point to it: --set data.image_folder=FOLDER")
    for given in data.sets:
        if not Path(given.path).is_file():
            yield Row("error", "data.sets", no_file(given.path), "Mend the set's `path`.")
        if given.image_folder is not None and not Path(given.image_folder).is_dir():
            told = f"there is no folder '{given.image_folder}' for {given.path}"
            yield Row("error", "data.sets", told, "Mend the set's `image_folder`.")
