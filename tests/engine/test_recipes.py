"""Every shipped recipe on stand-ins of its parts' own classes: it trains, hands over, converts and answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.conftest import PICTURE, as_overrides, losses, on_standins
from tests.part_library import PartLibrary
from vlmtool.chat.generator import GenerationSettings, Generator, Request, answering
from vlmtool.chat.load import load_chat_model
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.data.conversation import Image, user
from vlmtool.data.dataset import ConversationDataset, Sample
from vlmtool.data.render import IGNORED
from vlmtool.engine.build import build_runner
from vlmtool.models.checkpoint import last_checkpoint, read_checkpoint
from vlmtool.models.parts import PARTS
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.recipe.catalog import CONFIGS, default_work_dir, recipes
from vlmtool.recipe.load import load_recipe, read_sections
from vlmtool.recipe.overview import overview
from vlmtool.recipe.schema import Recipe

ENTRIES = {entry.name: entry for entry in recipes()}
SECOND_STAGES = [name for name in ENTRIES if load_recipe(name).init_from is not None]
WORK_DIRS = {str(default_work_dir(name)): name for name in ENTRIES} | {"work_dirs/demo/pretrain": "demo_pretrain"}
SHORT = GenerationSettings(max_new_tokens=4)
TOLERANCE = 2e-5  # of logits; the same numbers in float32, computed from weights that were written and read


def lonely_parts() -> list[Path]:
    """Files of language models and encoders in `_base_` that no shipped recipe names."""
    shipped = [load_recipe(name) for name in ENTRIES]
    named = {path for recipe in shipped for path in (recipe.llm.path, recipe.vision_encoder.path)}
    files = sorted(
        file for kind in ("llms", "vision_encoders") for file in (CONFIGS / "_base_" / kind).glob("[!_]*.py")
    )
    return [file for file in files if all(said["path"] not in named for said in read_sections(file).values())]


@dataclass(frozen=True)
class Stage:
    """A recipe after two steps."""

    recipe: Recipe
    checkpoint: Path
    tuning: dict[str, str]
    """By part, what was trained of it."""
    start: dict[str, Tensor]
    """Weights before the first step."""
    changed: set[str]
    """Weights that are others now."""
    losses: list[float]
    token_counts: set[int]
    """That single pictures take."""
    before: Tensor
    after: Tensor
    """Logits (V) of what comes next in the first record, before the first step and after the last."""
    answer: str


Stages = Callable[[str], Stage]


@pytest.fixture(scope="session")
def stages(parts: PartLibrary, records: Path, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """`stages(name)`: the recipe trained, after the recipe it starts from; each once."""
    done: dict[str, Stage] = {}

    def stage(name: str) -> Stage:
        if name not in done:
            before = load_recipe(name).init_from
            start = {"init_from": before and str(stage(WORK_DIRS[before]).checkpoint.parent)}
            done[name] = train(name, start, parts, records, tmp_path_factory.mktemp(name))
        return done[name]

    return stage


def train(name: str, said: dict[str, Any], parts: PartLibrary, records: Path, folder: Path) -> Stage:
    """A recipe that says something else, on stand-ins."""
    changed = on_standins(load_recipe(name, as_overrides(said)), parts, records)
    recipe = load_recipe(name, as_overrides(said | changed))
    prepared = build_runner(recipe, name, folder)
    model = prepared.runner.vlm
    dataset = prepared.runner.train_dataloader.dataset.parts[0]
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    before = next_logits(model, dataset[0])
    prepared.runner.train()
    assert prepared.runner.train_loop.num_skipped == 0
    checkpoint = last_checkpoint(folder)
    assert checkpoint is not None
    generator = Generator(model, dataset.renderer, dataset.transform)
    return Stage(
        recipe=recipe,
        checkpoint=checkpoint,
        tuning={part.name: part.tuning for part in prepared.parts},
        start=start,
        changed={name for name, weight in model.named_parameters() if not torch.equal(weight, start[name])},
        losses=losses(folder),
        token_counts=token_counts(dataset),
        before=before,
        after=next_logits(model, dataset[0]),
        answer=generator.generate([request(records)], SHORT)[0],
    )


def token_counts(dataset: ConversationDataset) -> set[int]:
    images = [image for part in dataset.parts for conversation in part.conversations for image in conversation.images]
    return {dataset.transform.num_tokens(image) for image in images}


def next_logits(model: VisionLanguageModel, sample: Sample) -> Tensor:
    """Logits (V) of the first token that a training sample supervises."""
    prompt = sample.input_ids[: int((sample.labels != IGNORED).nonzero()[0])]
    assert sample.pixels is not None
    with answering(model):
        embeds = model.embed(prompt[None], model.encode_images(sample.pixels))
        return model.llm(inputs_embeds=embeds).logits[0, -1].clone()


def request(records: Path) -> Request:
    """What the first record asks."""
    return Request((user(Image(str(records.parent / "images" / PICTURE)), "\nWhat is in the picture?"),))


def check_answer(stage: Stage, records: Path, folder: Path) -> None:
    """The trained model, once it is converted and loaded for a chat, says the same."""
    pth_to_hf(None, stage.checkpoint, folder, fp32=True)
    chat = load_chat_model(str(folder), bits=4 if stage.recipe.llm.quantization == "nf4" else None)
    with answering(chat.model):
        logits = chat.read_prompts(chat.prepare([request(records)]))[1][0]
        torch.testing.assert_close(logits, stage.after, rtol=0, atol=TOLERANCE)
    # Far more than the tolerance, or a folder without what was learned would do as well.
    assert (stage.after - stage.before).abs().max() > 100 * TOLERANCE
    assert chat.generate([request(records)], SHORT) == [stage.answer]


@pytest.mark.parametrize("name", ENTRIES)
def test_a_recipe_trains_what_it_declares(name: str, stages: Stages):
    stage = stages(name)
    declared = overview(ENTRIES[name], load_recipe(name)).trained  # what `config list` tells
    assert stage.tuning == {part: {"all": "full", None: "frozen"}.get(how := declared.get(part), how) for part in PARTS}
    assert {weight.partition(".")[0] for weight in stage.changed} == declared.keys()
    assert stage.changed <= read_checkpoint(stage.checkpoint).state_dict.keys()
    assert len(stage.losses) == 2
    encoder = stage.recipe.vision_encoder
    assert (len(stage.token_counts) > 1) == bool(encoder.tiles or encoder.max_patches)


@pytest.mark.parametrize("name", SECOND_STAGES)
def test_a_stage_begins_where_the_one_before_ended(name: str, stages: Stages):
    before = stages(WORK_DIRS[str(load_recipe(name).init_from)])
    weights, start = read_checkpoint(before.checkpoint).state_dict, stages(name).start
    assert weights.keys() >= before.changed and any(weight.startswith("projector.") for weight in weights)
    assert [weight for weight, value in weights.items() if not torch.equal(start[weight], value)] == []


@pytest.mark.parametrize("name", ENTRIES)
def test_the_converted_model_answers_as_the_trained_one(name: str, stages: Stages, records: Path, tmp_path: Path):
    check_answer(stages(name), records, tmp_path / "hf")


@pytest.mark.parametrize("file", lonely_parts(), ids=lambda file: file.stem)
def test_a_part_that_no_recipe_names_can_take_a_recipes_place(
    file: Path, parts: PartLibrary, records: Path, tmp_path: Path
):
    said = {f"{name}.{key}": value for name, part in read_sections(file).items() for key, value in part.items()}
    stage = train("llava_v15_7b_finetune_lora", said | {"init_from": None}, parts, records, tmp_path / "run")
    check_answer(stage, records, tmp_path / "hf")
