"""Reading recipes: overrides, nearest names, what is refused."""

import pytest

from vlmtool.recipe.load import load_recipe
from vlmtool.recipe.override import parse_value
from vlmtool.utils.errors import RecipeError, UsageError, VlmtoolError

NAME = "llava_vicuna_7b_v15_finetune"

MINIMAL = """
llm = dict(path="a/llm", template="vicuna")
vision_encoder = dict(path="a/clip")
projector = dict()
data = dict(path="d.json")
schedule = dict(lr=1e-3, batch_size=2)
"""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("llm.pth=1", r"unknown key 'llm.pth'. Did you mean 'path'\?"),
        ("dta.path=1", r"unknown key 'dta'. Did you mean 'data'\?"),
        ("llm.lora=dict(rr=3)", r"unknown key 'llm.lora.rr'"),
        ("schedule.lr='fast'", r"schedule.lr = 'fast'"),
        ("schedule.batch_size=0", r"schedule.batch_size = 0"),
        ("schedule.batch_size=2.5", r"schedule.batch_size = 2.5"),
        ("llm.quantization='nf5'", r"llm.quantization = 'nf5'"),
        ("llm.freeze=True", r"frozen and to get a LoRA"),
        ("llm.path.x=3", r"'path' is the value"),
    ],
)
def test_mistakes_are_told_in_three_lines(override, message):
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(NAME, [override])
    assert len(str(caught.value).splitlines()) <= 3
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.lr=fast", "--set: schedule.lr = 'fast': a number is needed."),
        ("llm.lora=8", "--set: llm.lora = 8: a section is needed, dict(r=…, alpha=…)."),
        ("data.sample_prompts=['Q']", "--set: data.sample_prompts.0 = 'Q': a section is needed, dict(question=…)."),
        ("schedule.batch_size=2.5", "--set: schedule.batch_size = 2.5: a whole number is needed."),
        ("schedule.batch_size=0", "--set: schedule.batch_size = 0: it must be above 0."),
        ("schedule.warmup_ratio=1", "--set: schedule.warmup_ratio = 1: it must be below 1.0."),
        ("llm.quantization=nf5", "--set: llm.quantization = 'nf5': it takes 'nf4' or 'int8'. Did you mean 'nf4'?"),
        ("data.sampler=lengt", "--set: data.sampler = 'lengt': it takes 'random' or 'length'. Did you mean 'length'?"),
        (
            "runtime.activation_checkpointing=projector",
            "--set: runtime.activation_checkpointing = 'projector': True, False or a list of parts is needed: "
            "('llm', 'vision_encoder').",
        ),
        (
            "runtime.activation_checkpointing=3",
            "--set: runtime.activation_checkpointing = 3: True, False or a list of parts is needed: "
            "('llm', 'vision_encoder').",
        ),
        ("llm.freeze=maybe", "--set: llm.freeze = 'maybe': True or False is needed."),
        ("llm=dict()", "--set: 'llm.path' is missing."),
        (f"schedule.lr={'x' * 5000}", f"--set: schedule.lr = '{'x' * 47} … {'x' * 47}': a number is needed."),
    ],
)  # fmt: skip
def test_what_set_said_is_not_blamed_on_the_file(override, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(NAME, ["schedule.epochs=2", override])
    assert str(caught.value).split("\n")[0] == message


def test_what_the_file_said_is(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINIMAL.replace("lr=1e-3", "lr='fast'"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(file), ["schedule.batch_size=4"])
    assert str(caught.value) == f"{file}: schedule.lr = 'fast': a number is needed."
    file.write_text(MINIMAL.replace('path="a/llm"', 'path="a/llm", lora=dict(r=8, alpha=16)'))
    with pytest.raises(RecipeError, match=f"{file} with --set: llm is said to be frozen"):  # each said a half
        load_recipe(str(file), ["llm.freeze=True"])


def test_override_without_value():
    with pytest.raises(UsageError, match="KEY=VALUE"):
        load_recipe(NAME, ["schedule.lr"])


def test_an_entry_of_a_list_is_no_key():
    with pytest.raises(UsageError, match=r"a list has no keys.\nGive it anew, whole: --set 'data.sets=\[…\]'"):
        load_recipe("demo_pretrain", ["data.sets.0.weight=2"])


def test_unknown_name_shows_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'llava_vicuna_7b_v15_finetune'"):
        load_recipe("llava_vicuna_7b_v15_finetun")


def test_values_are_python_literals():
    assert parse_value("1e-4") == 1e-4
    assert parse_value("(1, 'a')") == (1, "a")
    assert parse_value("dict(r=8, x=dict(y=[1]))") == {"r": 8, "x": {"y": (1,)}}
    assert parse_value("[dict(a=1), {'b': dict(c=2)}]") == ({"a": 1}, {"b": {"c": 2}})
    assert parse_value("None") is None
    assert parse_value("a/b-c.json") == "a/b-c.json"
    assert parse_value("__import__('os').system('true')") == "__import__('os').system('true')"


def test_full_training_of_quantized_weights_is_refused():
    with pytest.raises(RecipeError, match="nf4 weights cannot be trained"):
        load_recipe(NAME, ["llm.lora=None", "llm.freeze=False", "llm.quantization='nf4'"])


def test_a_recipe_that_trains_nothing_is_refused():
    with pytest.raises(RecipeError, match="trains nothing"):
        load_recipe(NAME, ["llm.lora=None", "projector.freeze=True"])


def test_a_users_file_and_class(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch.nn import Linear\n"
        + MINIMAL.replace("projector = dict()", "projector = dict(type=Linear, depth=4)")
    )
    recipe = load_recipe(str(file))
    assert recipe.projector.type == "torch.nn.Linear" and recipe.projector.options == {"depth": 4}
    assert recipe.llm.is_frozen and recipe.vision_encoder.is_frozen


def test_a_users_file_changes_one_part_of_a_shipped_recipe(tmp_path):
    """By `read_base` from the package, which mmengine finds only where its metadata lies: not so if it is editable."""
    (tmp_path / "parent.py").write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n"
        "    from vlmtool.configs._base_.vision_encoders.siglip2_so400m_p14_384 import vision_encoder\n"
        f"    from vlmtool.configs.llava.{NAME} import data, llm, projector, schedule\n"
    )
    child = tmp_path / "child.py"
    child.write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n"
        "    from .parent import data, llm, projector, schedule, vision_encoder\n"
        "schedule.update(lr=1e-5)\n"
    )
    shipped, mine = load_recipe(NAME), load_recipe(str(child))
    assert mine.vision_encoder.path == "google/siglip2-so400m-patch14-384" and mine.vision_encoder.is_frozen
    assert mine.schedule == shipped.schedule.model_copy(update={"lr": 1e-5})
    assert (mine.llm, mine.data, mine.projector) == (shipped.llm, shipped.data, shipped.projector)


@pytest.mark.parametrize(
    "text", ["llm = dict(", "import os, sys\n" + MINIMAL, "x = 1 / 0", "from nowhere.at.all import a\nllm = a()", ""]
)
def test_unreadable_files_are_told(tmp_path, text):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(VlmtoolError) as caught:
        load_recipe(str(file))
    assert len(str(caught.value).splitlines()) <= 3 and "broken.py" in str(caught.value)
