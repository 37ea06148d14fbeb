"""Benchmarks whose answers another model grades."""
