"""A downloaded folder or checkpoint may name a projector class; only the user says whether its code runs."""

import sys

import pytest
import torch

from tests.engine.conftest import PRETRAIN
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.engine.train import train
from vlmtool.models.folder import load_projector, save_projector
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.recipe.load import load_recipe
from vlmtool.utils.errors import CheckpointError

EVIL = """
from pathlib import Path
from vlmtool.models.projectors.mlp import MLPProjector

Path(__file__).with_name("ran").touch()


class Projector(MLPProjector):
    pass
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A module that leaves a mark when it is imported, where Python finds it."""
    (tmp_path / "evil_projector.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("evil_projector", None)


def test_a_folders_projector_class(foreign):
    folder = foreign / "projector"
    projector = MLPProjector(8, 16)
    config = dict(vision_hidden_size=8, llm_hidden_size=16, options=projector.options())
    save_projector(folder, config | {"type": "evil_projector.Projector"}, projector.state_dict())
    with pytest.raises(CheckpointError, match="was not run"):
        load_projector(folder)
    assert not (foreign / "ran").exists()
    assert isinstance(load_projector(folder, trust_remote_code=True), MLPProjector)
    assert (foreign / "ran").exists()


def test_a_checkpoints_projector_class(foreign, standins):
    overrides = [
        f"llm.path={str(standins.llama)!r}", f"vision_encoder.path={str(standins.clip)!r}",
        f"data.path={str(standins.data)!r}", f"data.image_folder={str(standins.images)!r}", "data.num_workers=0",
        "schedule.batch_size=2", "schedule.max_steps=1", "projector.type='evil_projector.Projector'",
    ]  # fmt: skip
    checkpoint = train(PRETRAIN, overrides, foreign / "run")
    sys.modules.pop("evil_projector")
    (foreign / "ran").unlink()
    with pytest.raises(CheckpointError, match="was not run"):
        pth_to_hf(None, checkpoint, foreign / "hf")
    assert not (foreign / "ran").exists()
    pth_to_hf(load_recipe(PRETRAIN, overrides), checkpoint, foreign / "hf")
    assert (foreign / "ran").exists()
    assert torch.is_tensor(load_projector(foreign / "hf" / "projector", trust_remote_code=True).model[0].weight)
