"""Samples of a step into as few micro-batches as a token budget allows, the same number on every rank."""

from collections.abc import Sequence


def pack(lengths: Sequence[int], budget: int, world_size: int) -> list[list[list[int]]]:
    """Share samples out over micro-batches and ranks, evenly by tokens.

    Longest first, each to where there is least so far; with one more micro-batch until all fit.

    Args:
        lengths: tokens of each sample; a sample above the budget is alone.
        budget: tokens of a micro-batch on one rank.
        world_size: at most as many as there are samples.

    Returns:
        For each micro-batch and rank the places in `lengths`, in ascending order and never none.
    """
    longest_first = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    most = max(1, len(lengths) // world_size)  # so that no rank is left without a sample
    for number in range(min(most, -(-sum(lengths) // (budget * world_size))), most):
        bins = _fill(longest_first, lengths, number * world_size)
        if all(sum(lengths[place] for place in places) <= budget for places in bins):
            break
    else:
        bins = _fill(longest_first, lengths, most * world_size)
    # Ranks wait for one another at the end of a micro-batch: those of like size go together.
    bins.sort(key=lambda places: -sum(lengths[place] for place in places))
    return [bins[first : first + world_size] for first in range(0, len(bins), world_size)]


def _fill(order: Sequence[int], lengths: Sequence[int], number: int) -> list[list[int]]:
    """`number` bins of nearly the same size."""
    bins: list[list[int]] = [[] for _ in range(number)]
    totals = [0] * number
    for place in order:
        emptiest = totals.index(min(totals))
        bins[emptiest].append(place)
        totals[emptiest] += lengths[place]
    return [sorted(places) for places in bins]
