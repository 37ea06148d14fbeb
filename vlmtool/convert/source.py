"""What a conversion starts from: a checkpoint that agrees with itself, with its recipe and with the bases on disk."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmtool.models.build import build_projector
from vlmtool.models.checkpoint import Checkpoint, read_checkpoint
from vlmtool.models.fingerprint import Identity, identity_of, weight_files
from vlmtool.models.lineage import Guard
from vlmtool.models.lora import is_weight_of
from vlmtool.models.parts import BESIDE, PARTS
from vlmtool.models.projectors.base import Projector
from vlmtool.models.weights import of_part
from vlmtool.recipe.load import parse_recipe
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.errors import CheckpointError, RecipeError
from vlmtool.utils.hub import SHIPPED, is_hub_id, local_folder
from vlmtool.utils.imports import import_class
from vlmtool.utils.remote_code import ALLOW, check_trusted

_META = ("recipe", "parts", "adapters", "projector", "template", "data", "parents", "versions", "step")
_TOLD = {"data": {"pad_to_square"}}  # of a section, what belongs to the model
_MAY_DIFFER = ("path", "lr")  # keys of a part: where it lies now is checked by hash, and lr is gone with the training


@dataclass(frozen=True)
class Base:
    """A base: its folder here, the name under which a manifest records it, and what it is.

    That is what it was in training; where another was forced, what lies in the folder.
    """

    folder: Path
    name: str
    identity: Identity


@dataclass(frozen=True)
class Source:
    """A checkpoint, its recipe and its bases."""

    checkpoint: Checkpoint
    recipe: Recipe
    """As it was trained."""
    llm: Base
    vision_encoder: Base
    beside: Base | None
    """The second encoder of a pair."""
    trust_remote_code: bool

    @property
    def meta(self) -> dict[str, Any]:
        """Of the checkpoint."""
        return self.checkpoint.meta

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Weights of the checkpoint below `prefix` ("llm", "vision_encoder.model"), which is taken off."""
        return of_part(self.checkpoint.state_dict, prefix)


def read_source(recipe: Recipe | None, path: Path, guard: Guard) -> Source:
    """Read a checkpoint and see that all belongs together.

    Args:
        recipe: what the user says it was trained with; None takes the checkpoint's word, but runs no remote code.
        guard: what is done where the recipe or a base is not the one of the training.

    Raises:
        UsageError: the file or a base is not there.
        CheckpointError: the checkpoint is damaged, or the recipe or a base is not the one of its training.
    """
    checkpoint = read_checkpoint(path, "PTH")
    missing = [key for key in _META if key not in checkpoint.meta]
    if missing:
        raise CheckpointError(f"{path}: its meta has no {', '.join(missing)}.\nIt was not written by `vlmtool train`.")
    trained = _trained_recipe(checkpoint)
    if recipe is not None:
        check_recipe(recipe, trained, path, guard, checkpoint.meta.get("name"))
    said = recipe or trained
    llm = _base(checkpoint, "llm", said.llm.path, guard)
    vision_encoder = _base(checkpoint, "vision_encoder", said.vision_encoder.path, guard)
    # Where another recipe was forced, whether there is a second encoder follows the checkpoint.
    second = trained.paths.get(BESIDE) and said.paths.get(BESIDE, trained.paths[BESIDE])
    beside = _base(checkpoint, BESIDE, second, guard) if second is not None else None
    trusts = recipe is not None and recipe.runtime.trust_remote_code
    _check_state(checkpoint, trained)
    _check_code(checkpoint, trained, recipe, trusts)
    _check_projector(checkpoint)
    return Source(checkpoint, trained, llm, vision_encoder, beside, trusts)


def _trained_recipe(checkpoint: Checkpoint) -> Recipe:
    try:
        return parse_recipe(checkpoint.meta["recipe"], str(checkpoint.path))
    except RecipeError as error:
        raise CheckpointError(f"{error}\nThe recipe in the checkpoint is of another version of vlmtool.") from error


def check_recipe(recipe: Recipe, trained: Recipe, path: Path, guard: Guard, name: str | None = None) -> None:
    """The two say the same of the parts; where that is forced, what is written follows the checkpoint.

    Args:
        name: of the recipe of the training.

    Raises:
        CheckpointError: they do not; names both values.
    """
    for part in (*PARTS, "data"):
        said, was = (_flat(getattr(r, part).model_dump(include=_TOLD.get(part)), part) for r in (recipe, trained))
        for key in sorted(said.keys() | was.keys()):
            if key.count(".") == 1 and key.endswith(tuple(f".{name}" for name in _MAY_DIFFER)):
                continue
            if key == f"{BESIDE}.path" and key in said and key in was:
                continue
            if said.get(key) != was.get(key):
                guard.refuse(
                    f"{path} was trained with {key} = {was.get(key)!r}, but the recipe says {said.get(key)!r}.",
                    f"Name the recipe of the training{f', {name}, or the recipe.py beside it' if name else ''}; "
                    f"or say so: --set {key}={was.get(key)!r}.",
                )


def _flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """{"lora": {"r": 8}} → {"llm.lora.r": 8}."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        result |= _flat(value, name) if isinstance(value, dict) else {name: value}
    return result


def _base(checkpoint: Checkpoint, part: str, path: str, guard: Guard) -> Base:
    """The base at `path`, which must be that of the training; an unmoved one may have lost its weights."""
    origin = checkpoint.meta["parts"][part]
    identity = Identity(origin["sha256"], origin.get("config_sha256", ""))
    folder = local_folder(path, f"{part}.path")
    if weight_files(folder) or path != origin["path"]:
        found = identity_of(folder)
        if difference := identity.difference(found):
            kind, then, now = difference
            guard.refuse(
                f"{checkpoint.path} was trained on {part} '{origin['path']}' with {kind} {then}; "
                f"'{path}' has {kind} {now}.",
                f"Say where the part of the training is: --set {part}.path=FOLDER.",
            )
            identity = found
    # A name that holds anywhere (a hub id, `vlmtool://…`) stays; a plain path must be found from any folder.
    name = path if path.startswith(SHIPPED) or is_hub_id(path) else str(folder.resolve())
    return Base(folder, name, identity)


def _check_state(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """The weights are those that the recipe trains.

    Raises:
        CheckpointError: there are others, or some are missing.
    """
    state, path = checkpoint.state_dict, checkpoint.path
    strange = [name for name in state if name.partition(".")[0] not in PARTS]
    if strange:
        raise CheckpointError(f"{path}: '{strange[0]}' belongs to no part.\nIt was not written by `vlmtool train`.")
    for part in ("llm", "vision_encoder"):
        section, settings = getattr(recipe, part), checkpoint.meta["adapters"].get(part)
        names = list(of_part(state, part))
        of_adapter = [name for name in names if is_weight_of(section.adapter or "lora", name)]
        if section.adapter is not None and (settings is None or not names or len(of_adapter) < len(names)):
            kind = "LoRA" if section.adapter == "lora" else section.adapter
            raise CheckpointError(f"{path}: the weights of the {part} are not those of a {kind}.\nThe file is damaged.")
        if section.is_fully_trained and (of_adapter or not names):
            raise CheckpointError(f"{path}: the weights of the whole {part} are missing.\nThe file is damaged.")
        if section.is_frozen and names:
            raise CheckpointError(f"{path}: holds weights of the {part}, which was frozen.\nThe file is damaged.")


def _check_code(checkpoint: Checkpoint, trained: Recipe, recipe: Recipe | None, trusts: bool) -> None:
    """Classes that are not vlmtool's are imported only where the user's own recipe names them, or allows all."""
    remedy = f"Name the recipe of the training, which says so itself, or allow it: {ALLOW}"
    said = {"projector.type": checkpoint.meta["projector"]["type"], **_readers(trained)}
    named = {"projector.type": recipe.projector.type, **_readers(recipe)} if recipe is not None else {}
    for key, dotted in said.items():
        check_trusted(dotted, f"{checkpoint.path}: {key}", trusts or named.get(key) == dotted, remedy)


def _readers(recipe: Recipe) -> dict[str, str]:
    """Classes that read the image encoders of a recipe, by key, where they are not vlmtool's."""
    encoder = recipe.vision_encoder
    sections = {"vision_encoder": encoder, BESIDE: encoder.beside}
    return {f"{name}.type": part.type for name, part in sections.items() if part is not None and part.type is not None}


def _check_projector(checkpoint: Checkpoint) -> None:
    """The projector's weights are those of its config."""
    config, path = checkpoint.meta["projector"], checkpoint.path
    cls = import_class(config["type"], f"{path}: projector.type")
    if not (isinstance(cls, type) and issubclass(cls, Projector)):
        raise CheckpointError(f"{path}: '{config['type']}' is not a projector.\nThe file is damaged or unsafe.")
    widths = config["vision_hidden_size"], config["llm_hidden_size"]
    wanted = build_projector(
        config["type"], *widths, config["options"], device=torch.device("meta"), row_end=bool(config.get("row_end"))
    ).state_dict()
    found = of_part(checkpoint.state_dict, "projector")
    check_names(found, wanted, f"{path}: projector")
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            shapes = f"{tuple(value.shape)}, its config says {tuple(wanted[name].shape)}"
            raise CheckpointError(f"{path}: 'projector.{name}' has shape {shapes}.\nThe file is damaged.")


def check_names(found: Iterable[str], wanted: Iterable[str], where: str) -> None:
    """The two hold the same names.

    Raises:
        CheckpointError: they do not.
    """
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unknown:
        first = f"'{missing[0]}' is missing" if missing else f"'{unknown[0]}' has no place"
        raise CheckpointError(
            f"{where}: {len(missing) + len(unknown)} weights do not match, {first}.\nThe file is damaged."
        )
