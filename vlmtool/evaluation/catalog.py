"""Benchmarks by name: every module of `benchmarks/` that holds a class with a `name` is one."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from vlmtool.evaluation import benchmarks
from vlmtool.evaluation.benchmark import Benchmark, Options
from vlmtool.evaluation.discovery import discover
from vlmtool.utils.errors import UsageError, did_you_mean


def benchmark_classes() -> dict[str, type[Benchmark]]:
    """Every benchmark by its name, in the order of the names."""
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        content = vars(importlib.import_module(f"{benchmarks.__name__}.{module.name}"))
        for value in content.values():
            if isinstance(value, type) and value.__module__.endswith(f".{module.name}") and "name" in vars(value):
                found[vars(value)["name"]] = value
    return dict(sorted(found.items()))


def find_benchmark(name: str) -> type[Benchmark]:
    """The benchmark of that name.

    Raises:
        UsageError: there is none; the message lists them.
    """
    classes = benchmark_classes()
    if name not in classes:
        raise UsageError(f"{name}: no such benchmark.{did_you_mean(name, classes)}\nThere are: {', '.join(classes)}.")
    return classes[name]


def find_data(benchmark: type[Benchmark], root: Path) -> list[Path]:
    """Its files or folders below `root`."""
    return [path for _, path in discover({benchmark.name: benchmark}, root).found]


def open_benchmark(name: str, data_path: Path, options: Options) -> Benchmark:
    """Read and check a benchmark.

    Raises:
        UsageError: there is no such benchmark, or an option it does not know. DataError: its data is broken.
    """
    return find_benchmark(name)(data_path, options)  # type: ignore[call-arg]  # a protocol says nothing of making one
