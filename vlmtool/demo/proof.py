"""Is it the picture that the model answers from? The same questions under conditions in which it must fail."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vlmtool.chat.generator import GenerationSettings, Generator
from vlmtool.chat.load import load_chat_model
from vlmtool.demo.data import DemoData
from vlmtool.demo.probe import probe_accuracy
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.report import METRICS_FILE
from vlmtool.evaluation.run import answer_all
from vlmtool.models.build import build_projector
from vlmtool.models.folder import load_projector, save_projector

BATCH_SIZE = 64
SETTINGS = GenerationSettings(max_new_tokens=8)


@dataclass(frozen=True)
class ProofRow:
    """One condition: shares of right answers."""

    name: str
    vanilla: float
    """Of the questions as they stand in the file, unrotated."""
    circular: float | None = None
    """Of the questions, right in every rotation."""
    must_be_blind: bool = False
    """Nothing can be seen here: no better than a blind guess."""


@dataclass(frozen=True)
class Proof:
    """All conditions, and the minimal pairs."""

    rows: list[ProofRow]
    num_questions: int
    pairs: float
    """Share of pairs with both answers right."""
    num_pairs: int

    def row(self, name: str) -> ProofRow:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def as_values(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def prove(work_dir: Path, data: DemoData) -> Proof:
    """Score every condition.

    Args:
        work_dir: with `pretrain_hf/`, `merged/`, `mmbench/` and `mmbench_blank/` of the demo's commands.
    """
    test, shuffled = MMBench(data.mmbench), MMBench(data.mmbench_shuffled)
    untrained = random_projector_folder(work_dir / "pretrain_hf", work_dir / "random_projector")
    pretrained, merged = (load_chat_model(str(work_dir / name)) for name in ("pretrain_hf", "merged"))
    rows = [
        ProofRow("blind guess", blind_guess(test), blind_guess(test)),
        _row("random projector", _scores(load_chat_model(str(untrained)), test, work_dir / "mmbench_random"), True),
        _row("after pretrain", _scores(pretrained, test, work_dir / "mmbench_pretrain")),
        _row("after finetune", _told_scores(work_dir / "mmbench")),
        _row("blank picture", _told_scores(work_dir / "mmbench_blank"), True),
        _row("another question's picture", _scores(merged, shuffled, work_dir / "mmbench_shuffled"), True),
        ProofRow("linear probe on the encoder", probe_accuracy(merged, data, test)),
    ]
    pairs = pair_hits(merged, MMBench(data.pairs), work_dir / "mmbench_pairs")
    return Proof(rows, len({row.base for row in test.rows}), sum(pairs) / len(pairs), len(pairs))


def blind_guess(benchmark: MMBench) -> float:
    """What one consistent answer per question is worth: 1 / number of options, over the questions."""
    options = [len(row.options) for row in benchmark.rows if row.is_base]
    return sum(1 / count for count in options) / len(options)


def _row(name: str, scores: Mapping[str, Any], must_be_blind: bool = False) -> ProofRow:
    return ProofRow(name, scores["vanilla_first"]["Overall"], scores["circular"]["Overall"], must_be_blind)


def _told_scores(folder: Path) -> dict[str, Any]:
    """What `vlmtool mmbench` wrote down."""
    return dict(json.loads((folder / METRICS_FILE).read_text())["scores"])


def _scores(generator: Generator, benchmark: MMBench, folder: Path) -> dict[str, Any]:
    answers = answer_all(benchmark, generator, SETTINGS, folder, BATCH_SIZE)
    return dict(benchmark.score(answers).scores)


def pair_hits(generator: Generator, benchmark: MMBench, folder: Path) -> list[bool]:
    """For each minimal pair, two questions one after the other, whether both pictures got the right answer."""
    answers = answer_all(benchmark, generator, SETTINGS, folder, BATCH_SIZE)
    hits = [bool(row["hit"]) for row in benchmark.score(answers).rows]
    return [one and other for one, other in zip(hits[::2], hits[1::2], strict=True)]


def random_projector_folder(source: Path, target: Path, seed: int = 0) -> Path:
    """A copy of a model folder whose projector has never learned anything."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    trained = load_projector(source / "projector")
    type_name = f"{type(trained).__module__}.{type(trained).__qualname__}"
    config = {
        "type": type_name,
        "vision_hidden_size": trained.vision_hidden_size,
        "llm_hidden_size": trained.llm_hidden_size,
        "options": trained.options(),
    }
    torch.manual_seed(seed)
    fresh = build_projector(type_name, trained.vision_hidden_size, trained.llm_hidden_size, trained.options())
    shutil.rmtree(target / "projector")
    save_projector(target / "projector", config, fresh.state_dict())
    return target
