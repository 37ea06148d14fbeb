"""A small training, in process; and what makes one of any shipped recipe."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.part_library import SHRINK, SHRINK_PATCHES, PartLibrary
from tests.standins import make_llava_data
from vlmtool.engine.train import train
from vlmtool.recipe.schema import DataSet, Recipe

FINETUNE = "llava_vicuna_7b_v15_finetune"
PRETRAIN = "llava_internlm_chat_7b_clip_vit_large_p14_336_e1_gpu8_pretrain"
PICTURE = "000_0.jpg"  # of the first record

# Sizes of projectors whose own are too large for the stand-ins.
PROJECTOR_SIZES = {
    "LDPv2Projector": {"grid_size": 3},  # a quarter along each side, as of the patches
    "QFormerProjector": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    },
}  # fmt: skip
STEP_SIZE = 8  # samples at most, for time


def on_standins(recipe: Recipe, parts: PartLibrary, records: Path) -> dict[str, Any]:
    """All that is changed of a recipe so that stand-ins train two steps on `records`; the rest stays as it is."""
    encoder, prompts = recipe.vision_encoder, recipe.data.sample_prompts
    batch_size = min(recipe.schedule.batch_size, STEP_SIZE)
    changed = {
        "llm.path": parts.llm(recipe.llm.path),
        "vision_encoder.path": parts.vision_encoder(encoder.path),
        "vision_encoder.image_size": encoder.image_size and encoder.image_size // SHRINK,
        "vision_encoder.max_patches": encoder.max_patches and encoder.max_patches // SHRINK_PATCHES,
        "data.path": recipe.data.path and str(records),
        "data.sets": tuple(_on_records(one, records, number) for number, one in enumerate(recipe.data.sets)),
        "data.image_folder": str(records.parent / "images"),
        "data.val_path": recipe.data.val_path and str(records),
        "data.sample_prompts": tuple({"question": p.question, "image": p.image and PICTURE} for p in prompts),
        "data.num_workers": 0,
        "schedule.batch_size": batch_size,
        "schedule.accumulation": min(recipe.schedule.accumulation, STEP_SIZE // batch_size),
        "schedule.max_steps": 2,
    }
    if encoder.beside is not None:
        changed["vision_encoder.beside.path"] = parts.vision_encoder(encoder.beside.path)
    sizes = PROJECTOR_SIZES.get(recipe.projector.type.rpartition(".")[2], {})
    return changed | {f"projector.{key}": value for key, value in sizes.items()}


def _on_records(one: DataSet, records: Path, number: int) -> dict[str, Any]:
    """One of a mixture's sets, each of which is a file of its own."""
    copy = records.with_name(f"{number}.json")
    if not copy.exists():
        shutil.copy(records, copy)
    return one.model_dump(exclude_unset=True, exclude={"image_folder"}) | {"path": str(copy)}


def as_overrides(values: dict[str, Any]) -> list[str]:
    """`KEY=VALUE`, as `--set` takes it."""
    return [f"{key}={value!r}" for key, value in values.items()]


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> PartLibrary:
    """Stand-ins by the hub ids that recipes name."""
    return PartLibrary(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records about pictures in very different proportions."""
    sizes = ((96, 32), (30, 80), (64, 48), (40, 40))  # px
    return make_llava_data(tmp_path_factory.mktemp("records"), seed=5, pictures=sizes)


def log_rows(folder: Path, name: str = "train_log.jsonl") -> dict[int, dict[str, Any]]:
    """Rows of a log by step; a later line of a step supersedes an earlier one."""
    return {row["step"]: row for row in map(json.loads, (folder / name).read_text().splitlines())}


def losses(folder: Path) -> list[float]:
    """Raw loss of each step."""
    rows = log_rows(folder)
    return [rows[step]["loss"] for step in sorted(rows)]


@pytest.fixture
def small(standins) -> list[str]:
    """Overrides that point a 7B recipe at the stand-ins."""
    values = {
        "llm.path": standins.llama, "vision_encoder.path": standins.clip, "data.path": standins.data, "data.sets": (),
        "data.image_folder": standins.images, "data.num_workers": 0, "schedule.batch_size": 4, "schedule.max_steps": 4,
        "schedule.accumulation": 1, "runtime.activation_checkpointing": False, "init_from": None,
    }  # fmt: skip
    return [f"{key}={str(value)!r}" if isinstance(value, Path) else f"{key}={value!r}" for key, value in values.items()]


@pytest.fixture
def run(small, tmp_path) -> Callable[..., Path]:
    """`run("name", "schedule.lr=1e-4", recipe=…)` trains in `tmp_path/name` and returns that folder."""

    def _run(name: str, *overrides: str, recipe: str = FINETUNE, **arguments: Any) -> Path:
        train(recipe, [*small, *overrides], tmp_path / name, **arguments)
        return tmp_path / name

    return _run
