"""The shipped recipes: each is short and checked, says what its first line says, and does what XTuner's does."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.recipe.catalog import CONFIGS, RecipeEntry, recipes
from vlmtool.recipe.load import load_recipe, read_sections, recipe_text
from vlmtool.recipe.parts import TunablePart
from vlmtool.recipe.schema import Recipe

ALL = recipes()
NAMES = [entry.name for entry in ALL]
# Facts of the files in xtuner/configs/llava of https://github.com/InternLM/xtuner at v0.1.23, by file name. In all of
# them: CLIP-L/14-336, AdamW (0.9, 0.999), weight decay 0, clipping at 1, 3 % warm-up, cosine, `<image>` in front.
XTUNER = json.loads((Path(__file__).parent / "xtuner_recipes.json").read_text(encoding="utf-8"))
ABSENT: dict[str, str] = {}  # XTuner's name → why there is no such recipe
DIFFERENT = {
    ("llava_llama3_70b_instruct_quant_clip_vit_large_p14_336_e1_gpu8_pretrain", "llm"): "XTuner's file names the 8B",
}
CONVERTED = {"train.json": "train_boxes.json"}  # a file that XTuner's data set class reads → ours, of LLaVA's records
IMAGE_TOKENS = 576  # CLIP-L/14 at 336, which XTuner takes off its length
MACHINE = re.compile(r"(\d+ GPUs?|No GPU), batch (\d+)\.$")


def tuned(part: TunablePart) -> str | list[float] | None:
    """What is trained of a part, as in the facts: "all", [r, alpha, dropout], or nothing."""
    if part.lora is not None:
        return [part.lora.r, part.lora.alpha, part.lora.dropout]
    return "all" if part.is_fully_trained else None


def facts(recipe: Recipe) -> dict[str, object]:
    """A recipe in the words of `xtuner_recipes.json`."""
    return {
        "llm": recipe.llm.path,
        "template": recipe.llm.template,
        "nf4": recipe.llm.quantization == "nf4",
        "llm_trained": tuned(recipe.llm),
        "encoder_trained": tuned(recipe.vision_encoder),
        "lr": recipe.schedule.lr,
        "batch_size": recipe.schedule.batch_size,
        "accumulation": recipe.schedule.accumulation,
        "gpus": recipe.planned and recipe.planned.gpus,
        "epochs": recipe.schedule.epochs,
        "text_length": recipe.data.max_length - IMAGE_TOKENS,
        "pad": recipe.data.pad_to_square,
        "by_length": recipe.data.sampler == "length",
        "data": [given.path.rpartition("/")[2] for given in recipe.training_sets],
        "init_from": recipe.init_from and recipe.init_from.removeprefix("work_dirs/"),
    }


@pytest.mark.parametrize("entry", ALL, ids=NAMES)
def test_a_recipe_is_short_and_stands_alone_when_copied(entry: RecipeEntry, tmp_path: Path):
    assert 7 <= len(entry.path.read_text(encoding="utf-8").splitlines()) <= 25
    recipe = load_recipe(entry.name)
    copy = tmp_path / "copy.py"
    copy.write_text(recipe_text(recipe, "A copy."), encoding="utf-8")
    assert "read_base" not in copy.read_text(encoding="utf-8")
    assert load_recipe(str(copy)) == recipe
    assert read_sections(copy) == read_sections(entry.path)


@pytest.mark.parametrize("entry", ALL, ids=NAMES)
def test_the_first_line_names_the_machine_that_is_planned_for(entry: RecipeEntry):
    recipe = load_recipe(entry.name)
    assert recipe.planned is not None
    if entry.name.startswith("demo_"):
        assert recipe.planned.gpus == 0
        return
    machine = MACHINE.search(entry.summary)
    assert machine, entry.summary
    gpus = 0 if machine[1] == "No GPU" else int(machine[1].split()[0])
    assert gpus == recipe.planned.gpus
    assert int(machine[2]) == max(gpus, 1) * recipe.schedule.batch_size * recipe.schedule.accumulation


@pytest.mark.parametrize("entry", ALL, ids=NAMES)
def test_a_stage_fits_the_one_before(entry: RecipeEntry):
    recipe = load_recipe(entry.name)
    if recipe.init_from is None:
        return
    before = load_recipe(recipe.init_from.removeprefix("work_dirs/").replace("demo/", "demo_"))
    assert (before.llm.path, before.vision_encoder.path) == (recipe.llm.path, recipe.vision_encoder.path)
    assert before.vision_encoder.select_layer == recipe.vision_encoder.select_layer
    assert before.projector.type == recipe.projector.type and before.projector.options == recipe.projector.options


def test_the_whole_tree_is_small():
    lines = [len(file.read_text(encoding="utf-8").splitlines()) for file in CONFIGS.rglob("*.py")]
    assert sum(lines) < 1500
    assert len(set(NAMES)) == len(NAMES) >= 60


def test_every_recipe_of_xtuners_is_there():
    assert len(XTUNER) == 33
    missing = XTUNER.keys() - set(NAMES)
    assert missing == ABSENT.keys() and all(ABSENT.values())


@pytest.mark.parametrize("name", sorted(XTUNER.keys() - ABSENT.keys()))
def test_a_recipe_does_what_xtuners_of_its_name_does(name: str):
    recipe = load_recipe(name)
    ours, theirs = facts(recipe), XTUNER[name]
    theirs = {**theirs, "data": [CONVERTED.get(file, file) for file in theirs["data"]]}
    assert [key for key in theirs if ours[key] != theirs[key] and (name, key) not in DIFFERENT] == []
    schedule = recipe.schedule
    assert recipe.vision_encoder.path == "openai/clip-vit-large-patch14-336"
    assert recipe.vision_encoder.select_layer == -2 and recipe.data.image_position == "front"
    assert recipe.projector.type.endswith(".MLPProjector") and recipe.projector.options == {}  # two layers
    assert (schedule.optimizer, schedule.betas, schedule.weight_decay) == ("torch.optim.AdamW", (0.9, 0.999), 0)
    assert (schedule.clip_grad, schedule.warmup_ratio, schedule.decay) == (1, 0.03, "cosine")


def test_what_differs_on_purpose_does_differ():
    for name, key in DIFFERENT:
        assert facts(load_recipe(name))[key] != XTUNER[name][key]


@pytest.mark.parametrize("pattern", ["qlora", "internlm2", "*_e1_gpu8_pretrain", "llava_v15_7b_finetune", "laptop*"])
def test_list_narrows_by_name(pattern: str, capsys):
    assert invoke(app, ["config", "list", "--json", "-p", pattern], debug=False) == 0
    shown = [row["name"] for row in json.loads(capsys.readouterr().out)]
    wanted = pattern if "*" in pattern else f"*{pattern}*"
    assert shown == [name for name in NAMES if fnmatch(name, wanted)] != []


def test_the_list_fits_a_terminal(capsys):
    assert invoke(app, ["config", "list"], debug=False) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, [heading, *lines])) <= 100
    assert lines[::2] == NAMES
    assert not any("?" in line for line in lines)  # a batch, and a memory, for each


def test_the_list_names_both_encoders_of_a_pair(capsys):
    assert invoke(app, ["config", "list", "-p", "prismatic*pretrain"], debug=False) == 0
    assert re.split(r"\s{2,}", capsys.readouterr().out.splitlines()[2].strip())[1] == "siglip-so400m+dinov2"
    assert invoke(app, ["config", "list", "-p", "prismatic*pretrain", "--json"], debug=False) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["vision_encoder"], row["beside"]) == ("google/siglip-so400m-patch14-384", "facebook/dinov2-large")


def test_the_list_says_what_a_recipe_does(capsys):
    name = "llava_internlm2_chat_20b_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune"
    assert invoke(app, ["config", "list", "-p", name], debug=False) == 0
    columns = re.split(r"\s{2,}", capsys.readouterr().out.splitlines()[2].strip())
    assert columns[:5] == ["internlm2-20b nf4", "clip-336", "MLP", "projector, LoRA of both", "8×8×2"]
    assert invoke(app, ["config", "list", "-p", name, "--json"], debug=False) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["trained"] == {"projector": "all", "llm": "lora", "vision_encoder": "lora"}
    assert (row["gpus"], row["step_size"], row["memory_gb"]) == (8, 128, None)
    assert invoke(app, ["config", "list", "-p", "gpu1_pretrain", "--json"], debug=False) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["memory_gb"] == 20 and row["estimated_gb"] < 20  # XTuner: one card of 20 GB
