"""Checkpoint to checkpoint: a training's `.pth` to a model folder, adapters into their bases."""
