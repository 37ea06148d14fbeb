"""Loading weights: nothing is skipped silently."""

import pytest
import torch

from vlmtool.models.weights import load_weights, of_part, saved_names, saved_state
from vlmtool.utils.errors import CheckpointError


def test_projector_is_always_saved(vlm):
    vlm.projector.requires_grad_(False)
    assert sorted(of_part(saved_state(vlm), "projector")) == [
        "model.0.bias",
        "model.0.weight",
        "model.2.bias",
        "model.2.weight",
    ]
    vlm.llm.lm_head.requires_grad_(True)
    assert "llm.lm_head.weight" in saved_names(vlm)


def test_round_trip_and_report(vlm):
    state = {name: torch.full_like(value, 0.5) for name, value in saved_state(vlm).items()}
    report = load_weights(vlm, state, "here", [*saved_names(vlm), "llm.new"])
    assert report.fresh == ["llm.new"] and len(report.loaded) == 4
    assert float(vlm.projector.model[0].weight.detach().min()) == 0.5


def test_strange_and_misshapen_weights_are_refused(vlm):
    with pytest.raises(CheckpointError, match=r"1 weight for which the model has no place, first 'llm\.x'"):
        load_weights(vlm, {"llm.x": torch.zeros(1)}, "here")
    with pytest.raises(CheckpointError, match="has shape"):
        load_weights(vlm, {"projector.model.0.bias": torch.zeros(3)}, "here")
