"""Checkpoints whose authors ship code of their own, as native transformers classes: none of that code is run."""
