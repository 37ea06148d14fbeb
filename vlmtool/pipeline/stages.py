"""What a pipeline is made of: stages, each a recipe with its values and its folder, and what scores the last one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmtool.convert.scores import SCORES
from vlmtool.recipe.catalog import WORK_DIRS, default_work_dir
from vlmtool.recipe.load import load_recipe
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.errors import UsageError, did_you_mean

MODEL = "hf"  # folders below the last stage's own: its model folder, and
MERGED = "merged"  # the same with every adapter inside its part; beside them `SCORES`


@dataclass(frozen=True)
class Stage:
    """One training."""

    number: int
    """From 1."""
    config: str
    """Name or file of the recipe, as given."""
    overrides: tuple[str, ...]
    recipe: Recipe
    folder: Path
    """The run folder."""
    num_processes: int = 1
    """That would train it now."""

    @property
    def name(self) -> str:
        """Of the recipe."""
        return Path(self.config).stem

    @property
    def title(self) -> str:
        """For messages."""
        return f"stage {self.number}, {self.name}"


@dataclass(frozen=True)
class Evaluation:
    """A benchmark that scores the result."""

    benchmark: str
    data_path: Path

    @property
    def name(self) -> str:
        """Of its folder: one for each benchmark and file."""
        return f"{self.benchmark}_{self.data_path.stem}"


@dataclass(frozen=True)
class Pipeline:
    """Stages in their order, and what is made of the last one."""

    stages: tuple[Stage, ...]
    evaluations: tuple[Evaluation, ...]
    root: Path
    """Holds the stages' folders."""

    @property
    def last(self) -> Stage:
        """The stage whose weights are converted and scored."""
        return self.stages[-1]

    @property
    def model_folder(self) -> Path:
        """The last stage's weights as `convert pth_to_hf` writes them."""
        return self.last.folder / MODEL

    @property
    def merges(self) -> bool:
        """The result has adapters that go into their parts. A prefix cannot: then it is used as it is."""
        recipe = self.last.recipe
        return recipe.llm.prefix is None and "lora" in (recipe.llm.adapter, recipe.vision_encoder.adapter)

    @property
    def result(self) -> Path:
        """The folder that is scored."""
        return self.last.folder / MERGED if self.merges else self.model_folder

    def scores(self, evaluation: Evaluation) -> Path:
        """Where the results of a benchmark go."""
        return self.last.folder / SCORES / evaluation.name


def read_pipeline(
    configs: Sequence[str],
    sets: Sequence[str] = (),
    work_dir: Path | None = None,
    evals: Sequence[str] = (),
    num_processes: int = 1,
) -> Pipeline:
    """The pipeline that a command line asks for.

    Args:
        sets: `KEY=VALUE` for every stage; `2:KEY=VALUE` or `NAME:KEY=VALUE` for one.
        evals: `BENCHMARK:FILE`.
        num_processes: of each training.

    Raises:
        UsageError: a recipe, an override or an evaluation that is wrong; of a recipe its stage is named.
    """
    root = work_dir or WORK_DIRS
    names = [Path(config).stem for config in configs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            f"CONFIG: two stages are called '{twice}' and would share a run folder.\n"
            f"Give one of them another name: vlmtool config copy {twice} NAME.py"
        )
    given = _overrides(sets, names)
    stages = []
    for number, (config, overrides) in enumerate(zip(configs, given, strict=True), start=1):
        try:
            recipe = load_recipe(config, overrides)
        except UsageError as error:
            raise type(error)(f"Stage {number}, {config}: {error}") from error
        folder = default_work_dir(config, root)
        stages.append(Stage(number, config, tuple(overrides), recipe, folder, num_processes))
    return Pipeline(tuple(stages), tuple(_evaluations(evals)), root)


def _overrides(sets: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    """The overrides of each stage, in the order given."""
    result: list[list[str]] = [[] for _ in names]
    numbers = {str(number): number - 1 for number in range(1, len(names) + 1)}
    places = numbers | {name: place for place, name in enumerate(names)}
    for given in sets:
        stage, colon, override = given.partition(":")
        if not colon or "=" in stage:  # the colon is part of the value
            for overrides in result:
                overrides.append(given)
        elif stage in places:
            result[places[stage]].append(override)
        else:
            raise UsageError(
                f"--set {given}: there is no stage '{stage}'.{did_you_mean(stage, names)}\n"
                f"Give KEY=VALUE for all stages, or N:KEY=VALUE for one, N from 1 to {len(names)}."
            )
    return result


def _evaluations(evals: Sequence[str]) -> list[Evaluation]:
    found: dict[str, Evaluation] = {}
    for given in evals:
        benchmark, colon, path = given.partition(":")
        if not (benchmark and colon and path):
            raise UsageError(f"--eval {given}: not of the form BENCHMARK:FILE.\nExample: --eval mmbench:dev.tsv")
        evaluation = Evaluation(benchmark, Path(path))
        if evaluation.name in found:
            raise UsageError(
                f"--eval {given}: a second '{evaluation.name}', whose results would go to the same folder.\n"
                "Give each once, or another name to one of the files."
            )
        found[evaluation.name] = evaluation
    return list(found.values())
