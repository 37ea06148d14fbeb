"""Tokenizers of checkpoints that ship theirs as Python code only, built from their vocabulary files."""
