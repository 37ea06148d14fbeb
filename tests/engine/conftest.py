"""A small training, in process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmtool.engine.train import train
from vlmtool.recipe.catalog import recipes
from vlmtool.recipe.load import read_sections

FINETUNE = "llava_vicuna_7b_v15_finetune"
PRETRAIN = "llava_internlm_chat_7b_clip_vit_large_p14_336_e1_gpu8_pretrain"

# Sizes for the stand-ins, whose pictures are 2 x 2 patches, of projectors whose own are too large for them.
PROJECTOR_SIZES = {
    "LDPv2Projector": ["projector.grid_size=2"],
    "QFormerProjector": [
        "projector.hidden_size=64", "projector.num_hidden_layers=2", "projector.num_attention_heads=4",
        "projector.intermediate_size=128",
    ],
}  # fmt: skip


def shipped_for_standins() -> list[Any]:
    """Recipes, each with overrides that fit its projector to the stand-ins, but those for special encoders."""
    found = []
    for entry in recipes():
        sections = read_sections(entry.path)
        if not {"image_size", "tiles", "max_patches"} & sections["vision_encoder"].keys():
            projector = sections["projector"]["type"].rpartition(".")[2]
            found.append(pytest.param(entry.name, PROJECTOR_SIZES.get(projector, []), id=entry.name))
    return found


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
        "llm.path": standins.llama, "vision_encoder.path": standins.clip, "data.path": standins.data,
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
