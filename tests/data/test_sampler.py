"""Which samples make which step: the same whatever the number of ranks and micro-batches."""

import pytest
import torch

from vlmtool.data.sampler import Share, StepPlan, StepSampler


def plan(num_samples=23, batch_size=1, accumulation=1, world_size=1, **options) -> StepPlan:
    return StepPlan((Share(num_samples),), batch_size, accumulation, world_size, **{"seed": 3, **options})


def step_of(chosen: StepPlan, step: int) -> list[int]:
    """Every sample of a step: all micro-batches of all ranks."""
    everyones = zip(*(chosen.micro_batches(step, rank) for rank in range(chosen.world_size)), strict=True)
    return [index for ranks in everyones for batch in ranks for index in batch]


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize(
    "other", [dict(batch_size=1, accumulation=4), dict(batch_size=2, world_size=2),
              dict(batch_size=1, accumulation=2, world_size=2)],
)  # fmt: skip
def test_a_step_has_the_same_samples_however_it_is_shared_out(other, by_length):
    options = dict(lengths=tuple(range(23)), by_length=by_length)
    whole, shared = plan(batch_size=4, **options), plan(**other, **options)
    for step in range(2 * whole.steps(1)):
        assert step_of(shared, step) == step_of(whole, step)


@pytest.mark.parametrize("by_length", [False, True])
def test_each_epoch_has_every_sample_once(by_length):
    chosen = plan(batch_size=4, lengths=tuple(range(23)), by_length=by_length)
    stream = [index for step in range(23) for index in step_of(chosen, step)]  # 23 steps of 4: four epochs
    epochs = [stream[i : i + 23] for i in range(0, len(stream), 23)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_the_seed_decides_the_order():
    assert step_of(plan(batch_size=23), 0) == step_of(plan(batch_size=23), 0)
    assert step_of(plan(batch_size=23), 0) != step_of(plan(batch_size=23, seed=4), 0)


@pytest.mark.parametrize("by_length", [False, True])
def test_resuming_gives_the_tail(by_length):
    options = dict(batch_size=2, accumulation=2, lengths=tuple(range(23)), by_length=by_length)
    unbroken = list(StepSampler(plan(**options), 0, 0, 30))
    assert len(unbroken) == len(StepSampler(plan(**options), 0, 0, 30)) == 60
    for step in (1, 7, 29):
        assert list(StepSampler(plan(**options), 0, step, 30)) == unbroken[2 * step :]


def test_ranks_never_share_a_sample_within_an_epoch():
    chosen = plan(num_samples=24, batch_size=3, world_size=2)
    ranks = [[i for batch in StepSampler(chosen, rank, 0, 4) for i in batch] for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == list(range(24))


def test_a_data_set_smaller_than_a_step_wraps():
    chosen = plan(num_samples=3, batch_size=4, accumulation=2)
    assert chosen.steps(1) == 1
    drawn = step_of(chosen, 0) + step_of(chosen, 1) + step_of(chosen, 2)
    assert torch.bincount(torch.tensor(drawn)).tolist() == [8, 8, 8]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 6), (2, 12), (0.5, 3), (0.01, 1)])
def test_steps_see_every_sample_as_often_as_asked(epochs, steps):
    assert plan(num_samples=23, batch_size=4).steps(epochs) == steps


@pytest.mark.parametrize("num_samples", [400, 403])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_samples_of_like_length_are_together_in_every_epoch(num_samples, epoch):
    lengths = tuple(torch.randint(10, 1000, (num_samples,), generator=torch.Generator().manual_seed(0)).tolist())
    chosen = plan(num_samples=num_samples, batch_size=8, lengths=lengths, by_length=True)
    first = -(-epoch * num_samples // 8)
    whole = range(first, (epoch + 1) * num_samples // 8)  # steps that lie in this epoch alone
    spans = [max(lengths[i] for i in step_of(chosen, s)) - min(lengths[i] for i in step_of(chosen, s)) for s in whole]
    # A window is 400 samples here, so 8 neighbours of the sorted lengths span about 990 * 8 / 400 = 20.
    assert max(spans) < 80
    assert sum(spans) / len(spans) < 30


def test_lengths_do_not_come_in_order():
    lengths = tuple(range(400))
    chosen = plan(num_samples=400, batch_size=8, lengths=lengths, by_length=True)
    longest = [max(step_of(chosen, step)) for step in range(50)]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)
