"""Stages one after another: each trained from the one before, the last one converted and scored."""
