"""What every projector of the package promises; a new file joins by itself."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import vlmtool.models.projectors
from tests.models.projector_parts import OTHER, WIDTHS, features, on_meta, size, small
from vlmtool.models.build import build_projector
from vlmtool.models.folder import load_projector, save_projector
from vlmtool.models.projectors.base import Projector
from vlmtool.models.projectors.ldpv2 import LDPv2Projector
from vlmtool.models.projectors.pixel_shuffle import PixelShuffleProjector
from vlmtool.models.projectors.qformer import QFormerProjector
from vlmtool.models.projectors.resampler import PerceiverResampler
from vlmtool.models.projectors.xdp import XDPProjector
from vlmtool.recipe.load import read_sections
from vlmtool.utils.errors import RecipeError

DOCS = Path(__file__).parents[2] / "docs/projectors.md"
PARTS = Path(__file__).parents[2] / "vlmtool/configs/_base_/projectors"
MODULES = [
    importlib.import_module(f"vlmtool.models.projectors.{module.name}")
    for module in pkgutil.iter_modules(vlmtool.models.projectors.__path__)
]
CLASSES = [
    cls
    for module in MODULES
    for cls in vars(module).values()
    if inspect.isclass(cls) and issubclass(cls, Projector) and cls.__module__ == module.__name__ != Projector.__module__
]
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def defaults(cls: type[Projector]) -> dict:
    """The options of a class as its signature gives them."""
    parameters = list(inspect.signature(cls).parameters.values())
    assert [p.name for p in parameters[:2]] == ["vision_hidden_size", "llm_hidden_size"]
    return {p.name: p.default for p in parameters[2:]}


@every_class
def test_shape_is_what_num_tokens_says(cls):
    other, default, checked = small(cls), on_meta(cls, 1024, 4096), 0
    for num_patches in (16, 64, 576):
        assert other(features(3, num_patches)).shape == (3, other.num_tokens(num_patches), WIDTHS[1])
        try:
            num_tokens = default.num_tokens(num_patches)
        except RecipeError:
            continue
        patches = torch.empty(3, num_patches, 1024, device="meta")
        assert default(patches).shape == (3, num_tokens, 4096)
        checked += 1
    assert checked and default.num_tokens(576)


@every_class
def test_options_are_the_arguments_and_come_back_from_a_folder(cls, tmp_path):
    assert on_meta(cls, 8, 8).options() == defaults(cls)
    given = OTHER.get(cls.__name__, {})
    assert given.keys() == defaults(cls).keys() and all(given[name] != defaults(cls)[name] for name in given)
    projector = small(cls)
    assert projector.options() == given
    dotted = f"{cls.__module__}.{cls.__name__}"
    widths = dict(vision_hidden_size=WIDTHS[0], llm_hidden_size=WIDTHS[1])
    save_projector(
        tmp_path / "projector", {"type": dotted, **widths, "options": projector.options()}, projector.state_dict()
    )
    again = load_projector(tmp_path / "projector")
    assert type(again) is cls and again.options() == given
    assert torch.equal(again(features()), projector(features()))


@every_class
def test_gradient_reaches_every_weight(cls):
    projector = small(cls).train()
    output = projector(features())
    output.mul(torch.randn(output.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    for name, parameter in projector.named_parameters():
        assert parameter.grad is not None, name
        # Softmax does not change when all its inputs are moved by the same amount.
        assert parameter.grad.any() or name.endswith("key.bias"), name


@every_class
def test_no_images(cls):
    projector = small(cls).train()
    output = projector(features(0))
    assert output.shape == (0, projector.num_tokens(16), WIDTHS[1])
    output.sum().backward()


@every_class
def test_images_do_not_see_one_another(cls):
    projector, images = small(cls), features(3)
    alone = torch.cat([projector(image[None]) for image in images])
    assert torch.allclose(projector(images), alone, atol=1e-5)


@every_class
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit(cls, dtype):
    projector, images = small(cls), features()
    exact = projector(images)
    rounded = projector.to(dtype)(images.to(dtype))
    assert rounded.dtype == dtype
    # bfloat16 keeps 8 bits: about half a percent a layer
    assert (rounded.float() - exact).norm() < 0.05 * exact.norm()


@every_class
def test_the_seed_says_the_weights(cls):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(cls(*WIDTHS, **OTHER.get(cls.__name__, {})).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


@every_class
def test_no_memory_on_the_meta_device_and_no_dropout_by_default(cls):
    projector = on_meta(cls, 64, 64)
    assert {p.device.type for p in [*projector.parameters(), *projector.buffers()]} == {"meta"}
    assert all(module.p == 0 for module in projector.modules() if isinstance(module, nn.Dropout))
    assert all(getattr(module, "attention_dropout", 0) == 0 for module in projector.modules())


@every_class
def test_the_docstring_names_a_source(cls):
    assert "Source: " in cls.__doc__ and "https://arxiv.org/abs/" in cls.__doc__


@every_class
def test_a_square_grid_is_asked_for_where_it_is_needed(cls):
    projector = small(cls)
    if not cls.needs_square_grid:
        assert projector(features(2, 12)).shape[1] == projector.num_tokens(12)
        return
    for call in (lambda: projector.num_tokens(12), lambda: projector(features(2, 12))):
        with pytest.raises(RecipeError, match=rf"projector: {cls.__name__} .* 12 are not\.\n.*select_strategy='patch'"):
            call()


@every_class
def test_the_table_in_the_docs(cls):
    projector = on_meta(cls, 1024, 4096)
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{cls.__name__}`")]
    assert len(rows) == 1
    _, _, part, _, num_tokens, parameters, source, _ = (cell.strip() for cell in rows[0].split("|"))
    assert (num_tokens, parameters) == (str(projector.num_tokens(576)), f"{size(projector):,}")
    assert source.partition("](")[2].rstrip(")") in cls.__doc__
    section = read_sections(PARTS / f"{part.strip('`')}.py")["projector"]
    assert section.pop("type") == f"{cls.__module__}.{cls.__name__}"
    assert section.items() <= projector.options().items()


def test_the_table_names_every_part_of_recipes():
    table = DOCS.read_text(encoding="utf-8")
    assert {file.stem for file in PARTS.glob("[a-z]*.py")} == set(
        re.findall(r"^\| `\w+` \| `(\w+)`", table, re.MULTILINE)
    )


@pytest.mark.parametrize(
    ("cls", "num_patches", "said"),
    [
        (XDPProjector, 577, "joins 4 patches to a token, and 577 .*\nSet projector.factor"),
        (LDPv2Projector, 64, "12 x 12 tokens, and 64 patches are 8 x 8 .*\nSet projector.grid_size to 8 or less"),
        (PixelShuffleProjector, 729, "2 x 2 patches .* 729 patches are 27 x 27.\nSet projector.factor to a divisor"),
    ],
)
def test_a_number_of_patches_that_does_not_fit(cls, num_patches, said):
    with pytest.raises(RecipeError, match=f"^projector: {cls.__name__} .*{said}"):
        on_meta(cls, 8, 8).num_tokens(num_patches)


@pytest.mark.parametrize(
    ("cls", "option", "said"),
    [
        (XDPProjector, dict(factor=0), "factor is 0; it takes a whole number from 1 on."),
        (LDPv2Projector, dict(grid_size="12"), "grid_size is '12'; it takes a whole number"),
        (PixelShuffleProjector, dict(factor=0.5), "factor is 0.5; it takes a whole number"),
        (QFormerProjector, dict(dropout=1.0), "dropout is 1.0; it takes"),
        (QFormerProjector, dict(hidden_act="gelo"), "no activation of transformers. Did you mean 'gelu'?"),
        (PerceiverResampler, dict(hidden_act=3), "hidden_act is 3, no activation of transformers."),
        (PerceiverResampler, dict(depth=True), "depth is True; it takes a whole number"),
    ],
)
def test_an_option_that_cannot_be(cls, option, said):
    with pytest.raises(RecipeError) as caught:
        build_projector(f"{cls.__module__}.{cls.__name__}", 8, 8, option)
    assert said in str(caught.value)
