"""The loss against torch's own, and what it takes."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from vlmtool.models.loss import summed_cross_entropy


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("size", [(1, 7), (40, 3000), (200, 3000)])
def test_value_and_gradient_are_those_of_torch(scale, size):
    hidden = torch.randn(size[0], 16, generator=torch.Generator().manual_seed(0))
    head = torch.randn(size[1], 16, generator=torch.Generator().manual_seed(1)) * scale
    targets = torch.randint(0, size[1], (size[0],), generator=torch.Generator().manual_seed(2))
    found = []
    for loss in (summed_cross_entropy, lambda logits, targets: cross_entropy(logits, targets, reduction="sum")):
        inputs, weight = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        total = loss(inputs @ weight.T, targets)
        (3 * total).backward()
        found.append((total.detach(), inputs.grad, weight.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * scale)


def test_the_logits_hold_the_gradient():
    weight = torch.randn(50, 8, requires_grad=True)
    logits = torch.randn(4, 8) @ weight.T
    place = logits.data_ptr()
    summed_cross_entropy(logits, torch.arange(4)).backward()
    expected = torch.zeros(4)
    torch.testing.assert_close(logits.detach().sum(1), expected, atol=1e-5, rtol=0)  # softmax minus one at the target
    assert logits.data_ptr() == place


def test_logits_that_are_needed_otherwise_are_an_error_not_a_wrong_gradient():
    values = torch.randn(4, 9, requires_grad=True)
    total = summed_cross_entropy(values.tanh(), torch.arange(4))  # whose gradient reads its own output
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_soft_capped_logits():
    """As Gemma 2 makes them."""
    found = []
    for loss in (summed_cross_entropy, lambda logits, targets: cross_entropy(logits, targets, reduction="sum")):
        values = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
        loss((values / 5).tanh() * 5, torch.arange(4)).backward()
        found.append(values.grad)
    torch.testing.assert_close(*found)


def test_what_is_no_number_stays_none():
    logits = torch.tensor([[0.0, float("nan")], [1.0, 2.0]])
    assert summed_cross_entropy(logits, torch.tensor([0, 1])).isnan()
    assert not summed_cross_entropy(torch.tensor([[0.0, float("inf")]]), torch.tensor([0])).isfinite()
