"""Small files as benchmarks and tools write them, and `vlmtool eval` on them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from typer.testing import CliRunner

from vlmtool.cli.main import app
from vlmtool.evaluation.benchmark import Benchmark, Scores
from vlmtool.evaluation.files.predictions import read_predictions
from vlmtool.utils.errors import VlmtoolError


def write(path: Path, text: str) -> Path:
    """A text file; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_lines(path: Path, *entries: Mapping[str, Any]) -> Path:
    """JSON Lines."""
    return write(path, "".join(json.dumps(entry) + "\n" for entry in entries))


def draw(path: Path) -> Path:
    """A small picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(path)
    return path


def asked(benchmark: Benchmark) -> list[str]:
    """What the model reads beside each picture."""
    return [benchmark.prompt(sample)[0].content[-1] for sample in benchmark.samples()]


def answered(benchmark: Benchmark, path: Path, unknown: Callable[[str], None] | None = None) -> Scores:
    """Score a file of answers."""
    return benchmark.score(read_predictions(path, benchmark, unknown))


def metrics_of(name: str, data: Path, predictions: Path, folder: Path, *more: str) -> dict[str, Any]:
    """`metrics.json` that `vlmtool eval` writes for given predictions; the command's own error is raised."""
    arguments = ["eval", name, "--data-path", data, "--predictions", predictions, "--work-dir", folder, *more]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if isinstance(result.exception, VlmtoolError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads((folder / "metrics.json").read_text())


def assert_same_scores(scores: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """The same names and, to 1e-9, the same numbers, however deep."""
    assert set(scores) == set(expected)
    for name, value in expected.items():
        if isinstance(value, Mapping):
            assert_same_scores(scores[name], value)
        else:
            assert abs(scores[name] - value) <= 1e-9, name
