"""What a command line asks for: whose value is whose, and what is refused before anything is read."""

import pytest

from vlmtool.pipeline.stages import read_pipeline
from vlmtool.utils.errors import RecipeError, UsageError

ENCODER_LORA = "dict(path='x', lora=dict(r=4, alpha=8))"
PAIR = ("demo_pretrain", "demo_finetune")


def test_a_value_is_for_every_stage_or_for_one():
    sets = [
        "schedule.batch_size=8", "2:schedule.lr=1e-5", "demo_pretrain:schedule.lr=3e-3", "data.path=C:/x",
        "2:init_from=a:b",
    ]  # fmt: skip
    first, second = (stage.recipe for stage in read_pipeline(PAIR, sets).stages)
    assert (first.schedule.batch_size, second.schedule.batch_size) == (8, 8)
    assert (first.schedule.lr, second.schedule.lr) == (3e-3, 1e-5)
    assert first.data.path == second.data.path == "C:/x"
    assert (first.init_from, second.init_from) == (None, "a:b")


def test_folders_are_those_of_train():
    assert [str(stage.folder) for stage in read_pipeline(PAIR).stages] == [f"work_dirs/{name}" for name in PAIR]


@pytest.mark.parametrize(
    ("sets", "result"),
    [
        ([], "merged"),
        (["2:llm.lora=None", "2:llm.freeze=True"], "hf"),
        (["2:llm.lora=None", "2:llm.prefix=dict(num_tokens=4)"], "hf"),
        (["2:llm.lora=None", "2:llm.freeze=True", "2:vision_encoder=" + ENCODER_LORA], "merged"),
    ],
)
def test_only_what_has_an_adapter_for_its_weights_is_merged(sets, result):
    assert str(read_pipeline(PAIR, sets).result) == f"work_dirs/demo_finetune/{result}"


@pytest.mark.parametrize(
    ("configs", "sets", "evals", "said"),
    [
        (PAIR, ["3:schedule.lr=1"], [], "there is no stage '3'"),
        (PAIR, ["demo_finetun:schedule.lr=1"], [], "Did you mean 'demo_finetune'?"),
        (PAIR, ["2:schedule.lt=1"], [], "Stage 2, demo_finetune: --set: unknown key 'schedule.lt'"),
        (("demo_pretrain", "demo_finetun"), [], [], "Stage 2, demo_finetun: There is no recipe 'demo_finetun'"),
        (("demo_pretrain", "demo_pretrain.py"), [], [], "two stages are called 'demo_pretrain'"),
        (PAIR, [], ["mmbench"], "--eval mmbench: not of the form"),
        (PAIR, [], ["mmbench:a/x.tsv", "mmbench:b/x.tsv"], "a second 'mmbench_x'"),
    ],
)
def test_what_is_wrong_is_told(configs, sets, evals, said):
    with pytest.raises(UsageError) as error:
        read_pipeline(configs, sets, evals=evals)
    assert said in str(error.value) and len(str(error.value).splitlines()) <= 3


def test_an_error_of_a_recipe_stays_one():
    with pytest.raises(RecipeError):
        read_pipeline(PAIR, ["schedule.lr=fast"])
