"""Tensors in, tensors out: the composed model and its parts, how they are built, and what is written of them."""
