"""Benchmarks that are one table with pictures in its cells."""
