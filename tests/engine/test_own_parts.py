"""Parts of one's own that are wrong: told before the first step, with the place in the user's file."""

import json
import sys
from pathlib import Path

import pytest
from transformers import Aimv2VisionConfig, Aimv2VisionModel, CLIPImageProcessorPil

from tests.engine.conftest import FINETUNE
from tests.engine.test_preflight import dry_run  # noqa: F401
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.engine.planned import planned_encoder, planned_projector
from vlmtool.models.flow import check_tokens, picture_features
from vlmtool.recipe.load import load_recipe
from vlmtool.utils.errors import RecipeError, UsageError

MODULE = """\
from torch import nn
from transformers import Aimv2VisionModel

from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.projectors.base import Projector


class Pooled(Projector):
    def __init__(self, vision_hidden_size, llm_hidden_size, group=4):
        super().__init__(vision_hidden_size, llm_hidden_size)
        self.group = group
        self.linear = nn.Linear(vision_hidden_size, llm_hidden_size)

    def forward(self, patch_features):
        return self.linear(patch_features.unflatten(1, (-1, self.group)).mean(2))

    def num_tokens(self, num_patches):
        return num_patches // self.group

    def options(self):
        return {"group": self.group}


class Forgetful(Pooled):
    def options(self):
        return {}


class Constant(Pooled):
    def options(self):
        return {"group": 4}


class Boasting(Pooled):
    def num_tokens(self, num_patches):
        return num_patches


class Misspelt(Pooled):
    def forward(self, patch_features):
        return self.linaer(patch_features)


class Refusing(Projector):
    def __init__(self, vision_hidden_size, llm_hidden_size):
        raise RuntimeError("not today")


class Deciding(Pooled):
    def forward(self, patch_features):
        return super().forward(patch_features) if patch_features.sum().item() != 0.5 else patch_features


class Encoder(VisionEncoder):
    @classmethod
    def model_class(cls, path):
        return Aimv2VisionModel

    @classmethod
    def num_prefix_tokens(cls, config):
        return 0


class Short(VisionEncoder):
    @property
    def num_patches(self):
        return 9
"""
LINES = MODULE.splitlines()


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(LINES, 1) if text in line)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module's file, importable as `own_parts`."""
    file = tmp_path / "own_parts.py"
    file.write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield file
    sys.modules.pop("own_parts", None)


def projector(name: str, **options: int) -> str:
    return "projector=dict(" + ", ".join([f"type='own_parts.{name}'", *(f"{k}={v}" for k, v in options.items())]) + ")"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (projector("Forgetful", group=2), r"Forgetful.options\(\) leaves out 'group', which is 2"),
        (projector("Constant", group=2), r"Constant.options\(\) says 4 for 'group', which is 2"),
        (projector("Boasting", group=2), r"Boasting gives a tensor \(1, 2, 64\) for one picture.* say \(1, 4, 64\)"),
        (
            projector("Pooled", group=3),
            r"Pooled cannot read 4 patches of 64 features: RuntimeError.*own_parts.py:\d+\)",
        ),
        (projector("Misspelt", group=2), "has no attribute 'linaer'.*own_parts.py:{linaer}"),
        (projector("Refusing"), "cannot be built with {{}}: RuntimeError: not today .*own_parts.py:{today}"),
        ("projector=dict(type='torch.nn.Linear')", "'torch.nn.Linear' is no projector"),
        ("vision_encoder.type='own_parts.Short'", r"Short gives a tensor \(1, 4, 64\).* say \(1, 9, 64\)"),
    ],
)
def test_a_wrong_part_is_refused_before_the_first_step(run, dry_run, own, override, said):  # noqa: F811
    said = said.format(linaer=line_of("linaer"), today=line_of("today")) if "{" in said else said
    with pytest.raises(UsageError, match=said):
        run("run", override)
    errors = dry_run(override).of("error")
    assert list(errors) in (["projector"], ["vision_encoder"]), errors


def test_parts_that_are_right_train(run, own):
    """One of them decides by values, which shapes alone do not have."""
    for name in ("Pooled", "Deciding"):
        assert (run(name, projector(name, group=2), "schedule.max_steps=1") / "iter_1.pth").is_file()


def test_an_encoder_that_cannot_take_another_size_is_refused(dry_run, own, tmp_path):  # noqa: F811
    folder = tmp_path / "aim"
    config = Aimv2VisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8,
        use_head=False,
    )  # fmt: skip
    Aimv2VisionModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    given = (
        f"vision_encoder.path={str(folder)!r}",
        "vision_encoder.type='own_parts.Encoder'",
        "projector=dict(depth=2)",
    )
    assert dry_run(*given).exit_code == 0
    told = dry_run(*given, "vision_encoder.image_size=64").of("error")["vision_encoder"]
    assert "Encoder cannot read pictures of 64 px" in told and "its checkpoint is of 32 px" in told


@pytest.mark.parametrize(
    "encoder",
    [
        "dict(path='openai/clip-vit-large-patch14-336')",
        "dict(path='google/siglip-so400m-patch14-384', select_layer=-1)",
        "dict(path='facebook/dinov2-large', image_size=28)",
        "dict(path='google/siglip-so400m-patch14-384', beside=dict(path='facebook/dinov2-large'))",
    ],
)
def test_every_shipped_encoder_is_looked_through(own, parts, encoder):
    """Not only where nothing can be said: a projector that is wrong is found behind each."""
    recipe = load_recipe(FINETUNE, [f"vision_encoder={encoder}", projector("Pooled", group=1)])
    section = recipe.vision_encoder
    folders = [Path(parts.vision_encoder(one.path)) for one in (section, section.beside) if one is not None]
    planned = planned_encoder(recipe, *folders)
    lying = planned_projector(recipe, planned.hidden_size, 64)
    check_tokens(lying, picture_features(planned))
    lying.num_tokens = lambda num_patches: 1
    with pytest.raises(RecipeError, match="Pooled gives a tensor"):
        check_tokens(lying, picture_features(planned))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class Pooled(\n", "SyntaxError: '(' was never closed ({file}:1)"),
        ("x = 1\nimport nosuchmodule\n", "ModuleNotFoundError: No module named 'nosuchmodule' ({file}:2)"),
        ("\n\nraise RuntimeError('mine')\n", "RuntimeError: mine ({file}:3)"),
        ("x = 1\n", "module 'own_parts' has no attribute 'Pooled'.\nGive a class or its dotted path"),
        (None, "No module named 'own_parts'.\nGive a class or its dotted path"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_line(run, own, text, said):
    own.unlink() if text is None else own.write_text(text)
    with pytest.raises(RecipeError) as caught:
        run("run", projector("Pooled"))
    assert said.format(file=own) in str(caught.value)


def test_an_error_that_nobody_expected_is_told_with_the_users_line(run, own, capsys, tmp_path, small):
    """It shows with the first batch alone: its own shapes are right."""
    line = "        return super().forward(patch_features) if"
    own.write_text(MODULE.replace(line, "        return patch_features.sum().item() + None if True or"))
    sets = [word for override in [*small, projector("Deciding", group=2)] for word in ("--set", override)]
    assert invoke(app, ["train", FINETUNE, "--work-dir", str(tmp_path / "run"), *sets], debug=False) == 1
    told = capsys.readouterr().err
    assert f"Raised in {own}:{line_of('sum().item()')}" in told, told


def test_a_folder_without_options_is_not_written(run, own):
    """What the class says of itself stands in the folder, so that it is built again as it was trained."""
    folder = run("good", projector("Pooled", group=2), "schedule.max_steps=1")
    from vlmtool.convert.pth_to_hf import pth_to_hf

    recipe = load_recipe(str(folder / "recipe.py"))
    pth_to_hf(recipe, folder / "iter_1.pth", folder / "hf")
    assert json.loads((folder / "hf" / "projector" / "config.json").read_text())["options"] == {"group": 2}
