"""A pipeline of two tiny stages on stand-ins, taken through once in process."""

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.evaluation.conftest import COLUMNS, PICTURE
from tests.standins import Standins
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.pipeline.checks import check_pipeline
from vlmtool.pipeline.run import run_pipeline
from vlmtool.pipeline.stages import Pipeline, read_pipeline
from vlmtool.pipeline.standing import Ends

ALIGN = """
llm = dict(path={llama!r}, template="vicuna", freeze=True)
vision_encoder = dict(path={clip!r}, freeze=True)
projector = dict(depth=2)
data = dict(path={data!r}, image_folder={images!r}, num_workers=0)
schedule = dict(lr=1e-2, batch_size=4, max_steps=4, save_every=2, log_every=1)
"""
TUNE = """
from mmengine.config import read_base

with read_base():
    from .align import data, llm, projector, schedule, vision_encoder

init_from = "work_dirs/align"
llm.update(freeze=None, quantization="nf4", lora=dict(r=4, alpha=8, dropout=0.1))
schedule.update(lr=1e-3)
"""


@dataclass
class Work:
    """What a pipeline is made of; `commands` are those that its last start ran."""

    configs: list[str]
    table: Path
    commands: list[Sequence[str]] = field(default_factory=list)

    def pipeline(self, root: Path, *sets: str) -> Pipeline:
        return read_pipeline(self.configs, sets, root, [f"mmbench:{self.table}"])

    def start(
        self, root: Path, *sets: str, repeat: bool = False, execute: Callable[[Sequence[str]], int] | None = None
    ) -> Path:
        """Take it through as `vlmtool run` does, its commands in process or by `execute`."""
        self.commands.clear()

        def noted(words: Sequence[str]) -> int:
            self.commands.append(words)
            return (execute or in_process)(words)

        pipeline, ends = self.pipeline(root, *sets), Ends(root)
        check_pipeline(pipeline, ends, repeat)
        run_pipeline(pipeline, ends, repeat, noted)
        return root

    @property
    def verbs(self) -> list[str]:
        """The commands by name: `train align`, `train tune --resume`, `pth_to_hf`, `merge`, `eval`."""
        return [_verb(words) for words in self.commands]


def _verb(words: Sequence[str]) -> str:
    if words[0] == "train":
        return " ".join(["train", Path(words[1]).stem, *["--resume"] * ("--resume" in words)])
    return words[1] if words[0] == "convert" else words[0]


def in_process(words: Sequence[str]) -> int:
    return invoke(app, list(words), debug=False)


@pytest.fixture(scope="session")
def work(standins: Standins, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Two recipes and a benchmark of 6 questions in two rotations."""
    folder = tmp_path_factory.mktemp("pipeline")
    paths = {"llama": standins.llama, "clip": standins.clip, "data": standins.data, "images": standins.images}
    (folder / "align.py").write_text(ALIGN.format(**{name: str(path) for name, path in paths.items()}))
    (folder / "tune.py").write_text(TUNE)
    return Work([str(folder / "align.py"), str(folder / "tune.py")], write_questions(folder / "questions.tsv"))


def write_questions(path: Path, count: int = 6) -> Path:
    rows = []
    for number in range(count):
        for turn in range(2):
            options = dict(zip("AB", (["left", "right"], ["right", "left"])[turn], strict=True))
            rows.append({
                "index": number + turn * 1_000_000, "question": f"Where is it, {number}?", **options,
                "answer": "AB"[turn], "category": "ocr", "image": PICTURE, "l2-category": "coarse_perception",
                "split": "dev",
            })  # fmt: skip
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def whole(work: Work, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An unbroken run, and the commands that it ran."""
    root = work.start(tmp_path_factory.mktemp("whole"))
    return root, work.verbs


@pytest.fixture
def copy(whole: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """The unbroken run, to be spoiled."""
    return Path(shutil.copytree(whole[0], tmp_path / "copy"))
