"""Names of projector classes: what is shipped, and what is said of names that are none."""

import re
from pathlib import Path

import pytest
import torch

import vlmtool.models.projectors
from vlmtool.models.build import SHIPPED_PROJECTORS, build_projector, import_class
from vlmtool.models.llm import load_llm
from vlmtool.models.projectors.base import Projector
from vlmtool.utils.errors import CheckpointError, RecipeError


def test_every_shipped_projector_is_listed_and_can_be_built():
    files = Path(vlmtool.models.projectors.__file__).parent.glob("[a-z]*.py")
    modules = {f"vlmtool.models.projectors.{file.stem}" for file in files if file.stem != "base"}
    assert {name.rpartition(".")[0] for name in SHIPPED_PROJECTORS} == modules
    with torch.device("meta"):
        assert all(isinstance(build_projector(n, 8, 8, {}, device="meta"), Projector) for n in SHIPPED_PROJECTORS)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("mlp2x_gelu", "leave `type` out and give depth=2."), ("mlp3x_gelu", "give depth=3."),
        ("MLPProjector", "Did you mean 'vlmtool.models.projectors.mlp.MLPProjector'?"),
        ("mlp", "Did you mean 'vlmtool.models.projectors.mlp.MLPProjector'?"),
        ("linear", "Did you mean 'vlmtool.models.projectors.linear.LinearProjector'?"),
        ("LinearProjecter", "Did you mean 'LinearProjector'?"), ("vision_language", "its dotted path."),
    ],
)  # fmt: skip
def test_a_bare_name_is_told_with_the_shipped_ones(name, nearest):
    shipped = ", ".join(SHIPPED_PROJECTORS)
    with pytest.raises(RecipeError, match=rf"{re.escape(nearest)}\nShipped: {re.escape(shipped)}\.$"):
        build_projector(name, 8, 8, {})


def test_an_image_encoder_for_a_language_model_is_named(standins):
    with pytest.raises(
        CheckpointError, match=r"this is an image encoder \('clip_vision_model'\), not a language model"
    ):
        load_llm(standins.clip, torch.float32)


def test_a_bare_name_of_another_class_asks_for_a_path():
    with pytest.raises(RecipeError, match="schedule.optimizer = 'AdamW': not a dotted path"):
        import_class("AdamW", "schedule.optimizer")
