"""What is told to DeepSpeed, and what a recipe with another strategy may not ask for."""

import json

import pytest

from tests.engine.conftest import FINETUNE
from vlmtool.engine.first_look import check_strategy
from vlmtool.engine.strategies.zero_config import NAMES, complete, zero_settings
from vlmtool.recipe.load import load_recipe
from vlmtool.utils.errors import UsageError


def recipe(*overrides):
    return load_recipe(FINETUNE, ["data.sample_prompts=()", *overrides])


@pytest.mark.parametrize("name", NAMES)
def test_names_stand_with_and_without_their_prefix(name):
    short = name.removeprefix("deepspeed_")
    assert zero_settings(name) == zero_settings(short)
    zero = zero_settings(name)["zero_optimization"]
    assert zero["stage"] == int(short[4]) and ("offload_optimizer" in zero) == short.endswith("_offload")
    check_strategy(recipe(f"runtime.strategy={short!r}"))


def test_a_users_file_keeps_what_it_says_and_the_recipe_decides_the_rest(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(
        json.dumps({
            "zero_optimization": {"stage": 2, "overlap_comm": False}, "gradient_accumulation_steps": "auto",
            "train_micro_batch_size_per_gpu": "auto", "gradient_clipping": 1.0, "bf16": {"enabled": True},
        })
    )  # fmt: skip
    settings = complete(zero_settings(str(file)), micro_batch=4, accumulation=2, clip_grad=1.0, processes=8)
    assert settings["zero_optimization"] == {"stage": 2, "overlap_comm": False}
    assert settings["train_micro_batch_size_per_gpu"] == 4 and settings["train_batch_size"] == 32
    assert settings["gradient_accumulation_steps"] == 1 and settings["gradient_clipping"] == 1.0
    assert "bf16" not in settings


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"gradient_clipping": 5}, "'gradient_clipping' is 5, but schedule.clip_grad is 1.0"),
        (
            {"train_batch_size": 32},
            "'train_batch_size' is 32, but .* × processes is 64",
        ),
        ({"gradient_accumulation_steps": 1}, "schedule.accumulation is 2"),
    ],
)
def test_a_file_that_says_otherwise_than_the_recipe_is_refused(said, told):
    with pytest.raises(UsageError, match=told):
        complete({"zero_optimization": {"stage": 2}, **said}, 4, 2, 1.0, 8)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"zero_optimization": true}', "has no section 'zero_optimization'"),
        ('{"zero_optimization": {"stage": 2}, "compute_grad_norm": false}', "compute_grad_norm"),
        ('{"optimizer": {"type": "Adam"}, "zero_optimization": {"stage": 2}}', "schedule.optimizer"),
        ('{"zero_optimization": {"stage": 0}}', "stage = 0"),
        ("[]", "mine.json"),
    ],
)
def test_a_file_that_says_what_a_recipe_says_is_refused(tmp_path, text, told):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(Exception, match=told) as caught:
        zero_settings(str(tmp_path / "mine.json"))
    assert isinstance(caught.value, UsageError) or "mine.json" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["runtime.strategy='zero4'"], "Did you mean 'zero"),
        (["runtime.strategy='fsdp'"], "Did you mean 'fsdp2'"),
        (["runtime.strategy='nowhere.json'"], "there is no file 'nowhere.json'"),
        (["runtime.strategy='fsdp2'", "runtime.dtype='float16'"], "no scaling of the loss"),
        (
            ["runtime.strategy='zero2'", "mmengine=dict(optim_wrapper=dict(clip_grad=dict(max_value=1)))"],
            "clips by the norm",
        ),
        (["runtime.strategy='zero3'", "data.sample_prompts=(dict(question='What?'),)"], "no process can answer alone"),
        (["runtime.strategy='fsdp2'", "schedule.eval=('mmbench:dev.tsv',)"], "no process can answer alone"),
    ],
)
def test_what_a_strategy_cannot_do_is_told_before_the_run(overrides, told):
    with pytest.raises(UsageError, match=told):
        check_strategy(recipe(*overrides))


def test_what_needs_whole_weights_goes_with_pieces_of_the_optimiser():
    check_strategy(recipe("runtime.strategy='zero2'", "data.sample_prompts=(dict(question='What?'),)"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read: "),
        ("[1]", "holds no JSON object"),
        ('{"zero_optimisation": {"stage": 2}}', "has no section 'zero_optimization'. Did you mean 'zero_optimisation'"),
        ('{"zero_optimization": {"stage": 5}}', r"stage = 5\.\nGive stage 1, 2 or 3"),
    ],
)
def test_a_file_that_is_wrong_says_how(tmp_path, text, said):
    (tmp_path / "ds.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        zero_settings(str(tmp_path / "ds.json"))


def test_a_long_start_is_told(tmp_path):
    from vlmtool.engine.strategies.zero import _compiling

    place = tmp_path / "py311_cpu" / "deepspeed_shm_comm"
    assert "compiles its CPU extension, once" in _compiling(tmp_path)[0]
    place.mkdir(parents=True)
    (place / "x.so").touch()
    assert _compiling(tmp_path) == []
    (place / "lock").touch()
    assert f"delete {place / 'lock'}" in _compiling(tmp_path)[0]
