"""The packer: nothing lost, nothing above the budget, every rank with as many micro-batches, the same each time."""

import random

import pytest

from vlmtool.data.packing import pack
from vlmtool.data.sampler import Share, StepPlan, StepSampler


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("budget", [100, 250, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_every_sample_once_within_the_budget_and_on_every_rank(world_size, budget, seed):
    lengths = random.Random(seed).choices(range(1, 101), k=24)
    packed = pack(lengths, budget, world_size)
    assert sorted(place for ranks in packed for places in ranks for place in places) == list(range(24))
    assert all(len(ranks) == world_size and all(ranks) for ranks in packed)
    assert all(sum(lengths[place] for place in places) <= budget for ranks in packed for places in ranks)
    assert packed == pack(lengths, budget, world_size)


def test_no_more_micro_batches_than_are_needed():
    assert len(pack([50] * 8, 100, 1)) == 4
    assert len(pack([50] * 8, 100, 2)) == 2
    assert len(pack([90, 10, 80, 20, 70, 30], 100, 1)) == 3
    assert pack([30, 20, 10], 60, 1) == [[[0, 1, 2]]]


def test_a_sample_above_the_budget_is_alone():
    packed = pack([500, 10, 10], 100, 1)
    assert [0] in [ranks[0] for ranks in packed] and len(packed) <= 3


def test_fewer_tokens_than_ranks_leave_none_without_a_sample():
    assert pack([5, 5], 1000, 2) == [[[0], [1]]]


def test_ranks_that_wait_for_one_another_have_alike():
    packed = pack([100, 90, 50, 40, 12, 10], 100, 2)
    for first, second in packed:
        assert abs(sum(first) - sum(second)) <= 6  # of places: a pair is long with long, short with short


def test_a_step_keeps_its_samples():
    lengths = tuple(random.Random(0).choices(range(10, 200), k=40))
    shares = (Share(40),)
    plain = StepPlan(shares, 2, 3, 2, seed=1, lengths=lengths)
    packed = StepPlan(shares, 2, 3, 2, seed=1, lengths=lengths, pack_to=400)
    for step in range(8):
        drawn = [
            sorted(index for rank in (0, 1) for batch in plan.micro_batches(step, rank) for index in batch)
            for plan in (plain, packed)
        ]
        assert drawn[0] == drawn[1]
        assert len(packed.micro_batches(step, 0)) == len(packed.micro_batches(step, 1))
    unbroken = [list(StepSampler(packed, 0, step, step + 1)) for step in range(6)]
    assert list(StepSampler(packed, 0, 2, 6)) == [batch for step in unbroken[2:] for batch in step]
