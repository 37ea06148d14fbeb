"""What of a pipeline is done: what the run folders say, and the one thing they do not, which checkpoints are final."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtool.models.checkpoint import last_checkpoint, read_checkpoint
from vlmtool.models.fingerprint import SHORT, file_hashes
from vlmtool.models.manifest import read_manifest
from vlmtool.pipeline.stages import Stage
from vlmtool.recipe.load import parse_recipe
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import read_json, write_json
from vlmtool.utils.terminal import clean, err

STATE_FILE = "run.json"  # beside the stages' folders

# Keys, and sections of keys, that leave the weights as they are.
FREE = (
    "planned", "data.num_workers", "data.sample_prompts", "data.val_path", "schedule.log_every", "schedule.save_every",
    "schedule.save_epochs", "schedule.keep", "schedule.val_every", "schedule.sample_every", "schedule.eval",
    "schedule.eval_every", "schedule.eval_batch_size", "schedule.pack_to", "runtime.activation_checkpointing",
    "runtime.compile", "runtime.on_save_error", "runtime.hang_timeout", "runtime.trust_remote_code",
)  # fmt: skip

STEP = ("schedule.batch_size", "schedule.accumulation")


@dataclass(frozen=True)
class Trained:
    """The last checkpoint of a run folder."""

    path: Path
    sha256: str
    meta: Mapping[str, Any]

    def named(self) -> str:
        """`iter_500.pth (1a2b3c4d5e6f)`."""
        return f"{self.path.name} ({self.sha256[:SHORT]})"


@dataclass(frozen=True)
class Standing:
    """How far a stage is."""

    stage: Stage
    trained: Trained | None
    is_finished: bool
    """Its training came to its end with the very checkpoint that is there."""
    was_replaced: bool
    """It came to its end with another checkpoint than the one that is there."""
    stale: str
    """Why what is there does not follow from its recipe or from the stage before; empty where it does."""


class Ends:
    """Which checkpoint each stage ended with, and which results each benchmark was scored for: `run.json`.

    All else is in the run folders. What is recorded here is bound to hashes, so that a lost or old file makes work be
    looked at again, and is never taken for work that is done.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / STATE_FILE
        said = self._read()
        self.stages: dict[str, str] = said.get("stages", {})
        """{name of a stage: sha256 of its last checkpoint}."""
        self.scores: dict[str, str] = said.get("scores", {})
        """{place of a benchmark's results, below this folder: what they are of}."""

    def note_stage(self, name: str, sha256: str) -> None:
        """The training of a stage is at its end."""
        self.stages[name] = sha256
        self._write()

    def note_score(self, folder: Path, of: str) -> None:
        """A benchmark is scored."""
        self.scores[self._place(folder)] = of
        self._write()

    def is_scored(self, folder: Path, of: str) -> bool:
        """The results in `folder` are of that."""
        return self.scores.get(self._place(folder)) == of

    def _place(self, folder: Path) -> str:
        return folder.relative_to(self.path.parent).as_posix()

    def _write(self) -> None:
        write_json(self.path, {"stages": self.stages, "scores": self.scores})

    def _read(self) -> dict[str, dict[str, str]]:
        if not self.path.is_file():
            return {}
        try:
            content = read_json(self.path)
            if isinstance(content, dict) and all(isinstance(value, dict) for value in content.values()):
                return content
            reason = "it is not a table of stages and scores"
        except (OSError, ValueError) as error:
            reason = str(error)
        err().print(clean(f"Warning: {self.path} cannot be read ({reason}): every stage is looked at again."))
        return {}


def standing(stage: Stage, before: Standing | None, ends: Ends) -> Standing:
    """Look at the folder of a stage.

    Args:
        before: of the stage before; None for the first.

    Raises:
        CheckpointError: its last checkpoint is damaged, or not vlmtool's.
    """
    found = trained(stage)
    if found is None:
        return Standing(stage, None, is_finished=False, was_replaced=False, stale="")
    ended_with = ends.stages.get(stage.name)
    stale = _changed(stage, found) or (_other_parent(found, before) if before is not None else "")
    is_finished = ended_with == found.sha256 and not stale
    return Standing(stage, found, is_finished, ended_with not in (None, found.sha256), stale)


def trained(stage: Stage) -> Trained | None:
    """The last checkpoint of a stage's folder; None where nothing was saved yet."""
    newest = last_checkpoint(stage.folder)
    if newest is None:
        return None
    meta = read_checkpoint(newest, stage.title).meta
    return Trained(newest, file_hashes([newest])[newest], meta)


def _changed(stage: Stage, found: Trained) -> str:
    """What the recipe says otherwise now: the first such key, with both values."""
    then = parse_recipe(found.meta["recipe"], str(found.path))
    was, now = (dict(_values(recipe, stage.number > 1)) for recipe in (then, stage.recipe))
    processes = found.meta.get("processes", stage.num_processes)
    if _step_size(was) * processes == _step_size(now) * stage.num_processes:  # cut otherwise, the steps are the same
        was, now = ({key: values[key] for key in values if key not in STEP} for values in (was, now))
    key = next((key for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key)), None)
    if key is None:
        return ""
    return f"was trained with {key} = {was.get(key)!r}; its recipe now says {now.get(key)!r}"


def _step_size(values: Mapping[str, Any]) -> int:
    """Samples of one process in a step."""
    return math.prod(values[key] for key in STEP)


def _values(recipe: Recipe, follows: bool) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that makes the weights what they are.

    Args:
        follows: on a stage before, whose checkpoint is compared, not its name.
    """
    free = (*FREE, "init_from") if follows else FREE
    for key, value in _flat(recipe.model_dump(), ""):
        if not any(key == name or key.startswith(f"{name}.") for name in free):
            yield key, value


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _other_parent(found: Trained, before: Standing) -> str:
    """What it was trained from, where that is not the last checkpoint of the stage before."""
    parent = next(iter(found.meta.get("parents") or ()), None)
    now = before.trained
    if before.stale:
        return f"follows {before.stage.title}, which is trained again"
    if parent is not None and now is not None and parent.get("sha256") == now.sha256:
        return ""
    was = f"{Path(parent['checkpoint']).name} ({parent['sha256'][:SHORT]})" if parent is not None else "no stage before"
    has = f"has {now.named()}" if now is not None else "has no checkpoint"
    return f"was trained from {was}; {before.stage.title}, now {has}"


def is_made_of(folder: Path, sha256: str) -> bool:
    """`folder` is a whole model folder of the checkpoint with this hash."""
    try:
        manifest = read_manifest(folder) if folder.is_dir() else None
    except CheckpointError:
        return False
    if manifest is None or not manifest.parents or manifest.parents[0].get("sha256") != sha256:
        return False
    return all((folder / name).is_file() for name in manifest.files)
