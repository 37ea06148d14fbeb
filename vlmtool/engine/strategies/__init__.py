"""Strategies: how weights, gradients and the optimiser lie over the processes of a run."""
