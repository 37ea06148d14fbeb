"""Every recipe: loads, expands, dumps and reloads; `expand` is pure."""

import copy

import pytest

from vlmtool.engine.expand import expand
from vlmtool.recipe.catalog import recipes
from vlmtool.recipe.load import load_recipe, parse_recipe, recipe_text, recipe_values

NAMES = [entry.name for entry in recipes()]


def test_the_promised_recipes_are_shipped():
    assert {
        "demo_pretrain", "demo_finetune",
        "llava_internlm_chat_7b_clip_vit_large_p14_336_e1_gpu8_pretrain",
        "llava_internlm_chat_7b_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune",
        "llava_vicuna_7b_v15_pretrain", "llava_vicuna_7b_v15_finetune",
    } <= set(NAMES)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_expands_dumps_and_reloads(name, tmp_path):
    recipe = load_recipe(name)
    expanded = expand(recipe, "w", 1000)
    assert expanded["train_cfg"]["max_steps"] == (recipe.schedule.max_steps or 1000)
    assert expanded["optim_wrapper"]["optimizer"]["lr"] == recipe.schedule.lr
    copy_file = tmp_path / "copy.py"
    copy_file.write_text(recipe_text(recipe, "A copy."))
    assert load_recipe(str(copy_file)) == recipe
    assert parse_recipe(recipe_values(recipe), "values") == recipe


@pytest.mark.parametrize("name", NAMES)
def test_an_override_always_takes_effect(name):
    changed = load_recipe(name, ["schedule.lr=1.5e-4", "schedule.max_steps=7", "llm.path=elsewhere/llm"])
    expanded = expand(changed, total_steps=1000)
    assert expanded["optim_wrapper"]["optimizer"]["lr"] == 1.5e-4
    assert expanded["train_cfg"]["max_steps"] == expanded["param_scheduler"][0]["total_steps"] == 7
    assert changed.llm.path == "elsewhere/llm"


def test_the_escape_hatch_is_merged_last():
    recipe = load_recipe(
        "demo_pretrain", ["mmengine=dict(randomness=dict(deterministic=True), custom_hooks=[dict(type='x')])"]
    )
    before = copy.deepcopy(recipe)
    expanded = expand(recipe, "w", 10)
    assert expanded["randomness"] == {"seed": recipe.runtime.seed, "deterministic": True}
    assert [hook["type"].rpartition(".")[2] for hook in expanded["custom_hooks"]] == [
        "TroubleHook",
        "ProgressHook",
        "x",
    ]
    assert recipe == before
