"""Learning rates against the formula, on runs of every length."""

import math

import pytest
import torch

from vlmtool.engine.expand import warmup_steps
from vlmtool.engine.schedule import WarmupDecayLR, lr_factor


def scheduled(total: int, warmup: int, decay: str) -> list[float]:
    weights = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 2.0},
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0},
    ]
    optimizer = torch.optim.SGD(weights)
    scheduler = WarmupDecayLR(optimizer, total, warmup, decay, by_epoch=False)
    rates = []
    for _ in range(total):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(2 * optimizer.param_groups[1]["lr"])
        rates.append(optimizer.param_groups[1]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_after_linear_warmup():
    rates = scheduled(100, 3, "cosine")
    assert rates[:3] == pytest.approx([1 / 4, 2 / 4, 3 / 4])
    assert rates[3:] == pytest.approx([0.5 * (1 + math.cos(math.pi * (t - 3) / 97)) for t in range(3, 100)])


def test_linear_and_constant():
    assert scheduled(4, 0, "linear") == pytest.approx([1, 0.75, 0.5, 0.25])
    assert scheduled(4, 0, "constant") == [1, 1, 1, 1]


@pytest.mark.parametrize("total", [1, 2, 3, 10, 33, 34])
def test_tiny_runs_always_learn(total):
    rates = scheduled(total, warmup_steps(0.03, total), "cosine")
    assert len(rates) == total and all(rate > 0 for rate in rates) and max(rates) == pytest.approx(1, abs=0.6)
    assert lr_factor(0, total, warmup_steps(0.9, total), "cosine") > 0
