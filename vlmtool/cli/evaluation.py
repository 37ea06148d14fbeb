"""What `mmbench` and `eval` have in common: one model, one or several benchmarks, one or several processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtool.cli.options import check_launcher
from vlmtool.utils.errors import UsageError

if TYPE_CHECKING:
    from vlmtool.evaluation.benchmark import Benchmark, Scores


@dataclass(frozen=True)
class Job:
    """A benchmark that was read, and where its results go."""

    benchmark: Benchmark
    folder: Path


@dataclass(frozen=True)
class Asking:
    """How a model is loaded and asked.

    Args:
        parts: the arguments of `load_chat_model`.
        max_new_tokens: None takes each benchmark's own.
    """

    parts: dict[str, Any]
    batch_size: int | None
    max_new_tokens: int | None
    seed: int
    stop_words: tuple[str, ...]
    launcher: str


def check_asking(launcher: str, bits: int | None, has_source: bool, command: str) -> None:
    """What needs no file to be told."""
    if bits not in (None, 4, 8):
        raise UsageError(f"--bits {bits}: quantization knows 4 and 8. Leave it out for full precision.")
    check_launcher(launcher)
    if not has_source:
        raise UsageError(f"{command}: no model. Name a model folder, or score given answers with --predictions FILE.")


def ask(jobs: Sequence[Job], asking: Asking) -> list[Scores]:
    """Answer and score every benchmark with one load of the model; no scores where other processes do it."""
    from vlmtool.engine.launch import launch_settings, run_processes
    from vlmtool.engine.ranks import join_launcher

    join_launcher(asking.launcher)
    launch = launch_settings(os.environ)
    if launch is not None:
        run_processes(launch, sys.argv[1:])
        return []
    from vlmtool.chat.generator import GenerationSettings
    from vlmtool.chat.load import load_chat_model
    from vlmtool.engine.device import pick_device, start_process_group
    from vlmtool.engine.orphan import following_launcher
    from vlmtool.engine.peers import losing_peers
    from vlmtool.evaluation.evaluate import score_model
    from vlmtool.evaluation.likelihood import for_scoring

    with following_launcher(), losing_peers():
        start_process_group("pytorch" if "LOCAL_RANK" in os.environ else asking.launcher, pick_device())
        generator = load_chat_model(device=None, **asking.parts)
        results = []
        for job in jobs:
            longest = asking.max_new_tokens or job.benchmark.max_new_tokens
            settings = GenerationSettings(longest, temperature=0.0, seed=asking.seed, stop_words=asking.stop_words)
            asked = for_scoring(generator, job.benchmark)
            results.append(score_model(job.benchmark, asked, settings, job.folder, asking.batch_size, asking.parts))
    return [scores for scores in results if scores is not None]
