"""What can be told of a recipe before torch is imported, which takes seconds: are the paths there that it names?"""

from collections.abc import Iterator
from pathlib import Path

from vlmtool.engine.strategies.zero_config import zero_settings
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.checklist import Row
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import check_writable, no_file
from vlmtool.utils.hub import SHIPPED, local_folder


def check_paths(recipe: Recipe, work_dir: Path) -> None:
    """Parts, data and work dir are where the recipe and the command say.

    Raises:
        UsageError: one is not.
    """
    check_writable(work_dir, "--work-dir")
    check_strategy(recipe)
    for part, path in recipe.paths.items():
        local_folder(path, f"{part}.path")
    for row in missing_files(recipe):
        raise UsageError(row.message())


def check_strategy(recipe: Recipe) -> None:
    """The strategy is known, and can do what the recipe asks for.

    Raises:
        UsageError: it is not, or cannot.
    """
    name = recipe.runtime.strategy
    if name == "ddp":
        return
    is_sharded = name == "fsdp2" or zero_settings(name)["zero_optimization"]["stage"] == 3
    if recipe.runtime.dtype == "float16":
        raise UsageError(
            f"runtime.dtype = 'float16' with runtime.strategy = '{name}': there is no scaling of the loss for it.\n"
            "Use 'bfloat16' or 'float32', or runtime.strategy='ddp'."
        )
    if name != "fsdp2" and recipe.mmengine.get("optim_wrapper", {}).get("clip_grad"):
        raise UsageError(
            f"mmengine.optim_wrapper.clip_grad with runtime.strategy = '{name}': DeepSpeed clips by the norm alone.\n"
            "Set schedule.clip_grad in its place, or use 'ddp' or 'fsdp2'."
        )
    if recipe.runtime.compile:
        raise UsageError(
            f"runtime.compile with runtime.strategy = '{name}': the two were not brought together yet.\n"
            "Use 'ddp', or leave runtime.compile out."
        )
    if name != "fsdp2" and is_sharded and recipe.vision_encoder.cache is not None:
        raise UsageError(
            f"vision_encoder.cache with runtime.strategy = '{name}': stage 3 wants the encoder to run in all processes "
            "at once, and with kept features some need not.\nUse 'deepspeed_zero2' or 'fsdp2', or leave the cache out."
        )
    asked = {"data.sample_prompts": recipe.data.sample_prompts, "schedule.eval": recipe.schedule.eval}
    for key, value in asked.items():
        if is_sharded and value:
            raise UsageError(
                f"{key} with runtime.strategy = '{name}': the weights lie in pieces, and no process can answer alone.\n"
                f"Set {key}=() and ask the converted model, or use 'ddp' or 'deepspeed_zero2'."
            )


def missing_files(recipe: Recipe) -> Iterator[Row]:
    """Files and folders of the data that are not there."""
    data = recipe.data
    shipped = recipe.llm.path.startswith(SHIPPED)
    made = "; for the demo's, which `vlmtool demo` makes, run that here first" if shipped else ""
    for key, path in (("data.path", data.path), ("data.val_path", data.val_path)):
        if path is not None and not Path(path).is_file():
            yield Row("error", key, no_file(path), f"Point to it: --set {key}=FILE{made}")
    if not Path(data.image_folder).is_dir():
        told = f"there is no folder '{data.image_folder}'"
        yield Row("error", "data.image_folder", told, f"Point to it: --set data.image_folder=FOLDER{made}")
    for given in data.sets:
        if not Path(given.path).is_file():
            yield Row("error", "data.sets", no_file(given.path), "Mend the set's `path`.")
        if given.image_folder is not None and not Path(given.image_folder).is_dir():
            told = f"there is no folder '{given.image_folder}' for {given.path}"
            yield Row("error", "data.sets", told, "Mend the set's `image_folder`.")
