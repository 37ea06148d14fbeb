"""`vlmtool demo`: everything from data to score, on tiny parts, as real commands."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    work_dir: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("work_dirs") / "demo",
    seed: Annotated[int, typer.Option(min=0, help="Changes the training data, its order and the first weights.")] = 0,
) -> None:
    """Train a small vision-language model, convert, merge, ask and score it: under six minutes on two CPU cores."""
    from vlmtool.demo.run import run_demo

    run_demo(work_dir, seed)
