"""The ways of tuning: what each trains, and what it computes, against peft, the papers' formulas and another order."""

import math

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tests.convert.conftest import CPU, input_ids, pixels, sections
from tests.models.conftest import IMAGE_TOKEN, batch
from vlmtool.engine.build import build_model
from vlmtool.engine.expand import expand
from vlmtool.engine.optimizer import PartwiseOptimizer
from vlmtool.engine.trainable import check_trainable
from vlmtool.models.prefix import add_prefix
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.models.weights import saved_names
from vlmtool.recipe.load import parse_recipe
from vlmtool.recipe.parts import Prefix
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.errors import RecipeError

LORA = {"r": 4, "alpha": 8.0}
KINDS = {
    "lora": {"lora": LORA},
    "dora": {"lora": {**LORA, "dora": True}},
    "rslora": {"lora": {**LORA, "rslora": True}},
    "dora rslora": {"lora": {**LORA, "dora": True, "rslora": True}},
    "prefix": {"prefix": {"num_tokens": 3}},
}
WAYS = [(kind, quantization) for kind in KINDS for quantization in (None, "nf4")]
WAYS += [("lora", "int8"), ("rslora", "int8"), ("prefix", "int8")]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def recipe_of(standins, llm: dict, **others) -> Recipe:
    return parse_recipe(sections(standins, llm, others.pop("vision_encoder", {}), **others), "test")


def built(standins, recipe: Recipe, image_token: int = 384) -> VisionLanguageModel:
    torch.manual_seed(0)
    return build_model(recipe, {"llm": standins.llama, "vision_encoder": standins.clip}, image_token, CPU)


def prompts(image_token: int = 384) -> dict[str, torch.Tensor]:
    """Two rows, each of one image and 12 tokens, of which 4 are supervised."""
    ids = torch.cat([torch.full((2, 4), image_token), input_ids()], dim=1)
    labels = torch.where(torch.arange(16) >= 12, ids, -100)
    return {"input_ids": ids, "labels": labels, "pixels": pixels()}


def train(model: VisionLanguageModel, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model.train()(**prompts()).total.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(("kind", "quantization"), WAYS)
def test_two_steps_change_what_is_declared_and_nothing_else(standins, kind, quantization):
    recipe = recipe_of(standins, {**KINDS[kind], "quantization": quantization})
    model = built(standins, recipe)
    tuning = {part.name: part.tuning for part in check_trainable(model, recipe)}
    name = kind.split()[0].replace("rslora", "lora")
    assert tuning == {"llm": name, "vision_encoder": "frozen", "projector": "full"}
    before = {name: value.detach().clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}
    train(model)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(saved_names(model))
    assert ("dora" in kind) == any("magnitude" in name for name in changed)
    with torch.no_grad():
        model.eval()(**prompts())
        twice = [model(**prompts()).total for _ in range(2)]
    assert torch.equal(*twice) and twice[0].isfinite()
    train(model, steps=1)  # evaluating took nothing away


@pytest.mark.parametrize("kind", ["dora", "rslora"])
def test_an_encoder_learns_so_too(standins, kind):
    recipe = recipe_of(standins, {}, vision_encoder=KINDS[kind])
    model = built(standins, recipe)
    tuning = {part.name: part.tuning for part in check_trainable(model, recipe)}
    assert tuning["vision_encoder"] == ("dora" if kind == "dora" else "lora")
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    train(model)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == set(saved_names(model)) and any(name.startswith("vision_encoder.") for name in changed)


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora", "dora rslora"])
def test_an_update_is_that_of_the_paper(standins, kind):
    """LoRA: W + s B A; DoRA: m (W + s B A) / |W + s B A|, norms by output; s = alpha / r, or alpha / sqrt(r)."""
    model = built(standins, recipe_of(standins, KINDS[kind]))
    train(model)
    layer = model.llm.base_model.model.model.layers[1].mlp.down_proj
    scale = 8 / math.sqrt(4) if "rslora" in kind else 8 / 4
    weight = layer.base_layer.weight + scale * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    if "dora" in kind:
        magnitude = layer.lora_magnitude_vector["default"].weight
        assert not torch.allclose(magnitude, layer.base_layer.weight.norm(dim=1), atol=1e-3)  # it was trained
        weight = magnitude[:, None] * weight / weight.norm(dim=1, keepdim=True)
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(layer.eval()(x), x @ weight.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["dora", "rslora", "prefix"])
def test_the_loss_is_that_of_peft_alone(standins, kind):
    """Full logits, embeddings put together by hand, no head at chosen positions."""
    model = built(standins, recipe_of(standins, KINDS[kind]))
    train(model)
    config = {
        "dora": LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, use_dora=True, task_type="CAUSAL_LM"),
        "rslora": LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, use_rslora=True, task_type="CAUSAL_LM"),
        "prefix": PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    }[kind]
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(standins.llama), config)
    theirs.load_state_dict(model.llm.state_dict())
    given = prompts()
    embeds = theirs.get_input_embeddings()(given["input_ids"].clamp(max=383)).detach().clone()
    embeds[:, :4] = torch.stack(model.encode_images(given["pixels"])).detach()
    mask = torch.ones(2, 16, dtype=torch.long)
    logits = theirs(inputs_embeds=embeds, attention_mask=mask).logits[:, :-1].flatten(0, 1)
    loss = cross_entropy(logits, given["labels"][:, 1:].flatten(), reduction="sum")
    for mask_given in (None, mask):
        ours = model.train()(**given, attention_mask=mask_given)
        assert ours.num_tokens == 8 and ours.total.item() == pytest.approx(loss.item(), abs=1e-4)


def test_a_prefix_is_seen_by_every_row_alike(standins):
    """Right padding and neighbours change nothing; without its prefix the model says something else."""
    model = built(standins, recipe_of(standins, KINDS["prefix"])).eval()
    given = {**batch((1, 0, 2)), "pixels": None}
    given["input_ids"] = torch.where(given["input_ids"] == IMAGE_TOKEN, 5, given["input_ids"])
    with torch.no_grad():
        whole = model(**given).total
        rows = [model(given["input_ids"][row, None], given["labels"][row, None]).total for row in range(3)]
        plain = built(standins, recipe_of(standins, {})).eval()(**given).total
    assert whole.item() == pytest.approx(sum(rows).item(), rel=1e-5)
    assert abs(whole - plain) > 0.1


def test_bfloat16_computes_with_a_prefix_and_with_dora(standins):
    for kind in ("prefix", "dora"):
        model = built(standins, recipe_of(standins, KINDS[kind])).train()
        exact = model(**prompts()).total.item()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**prompts()).total
        loss.backward()
        assert loss.item() == pytest.approx(exact, rel=0.02)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize(
    ("llm", "others", "message"),
    [
        ({"prefix": {"num_tokens": 3}, "lora": LORA}, {}, "a prefix and a LoRA adapter"),
        ({"prefix": {"num_tokens": 3}, "freeze": True}, {}, "said to be frozen and to get a prefix"),
        ({"prefix": {"num_tokens": 3}, "freeze": False}, {}, "fully trained and to get a prefix"),
        ({"lora": {**LORA, "dora": True}, "freeze": True}, {}, "said to be frozen and to get a LoRA"),
        ({"prefix": {"num_tokens": 0}}, {}, "must be above 0"),
        ({"lora": {**LORA, "dora": True}, "quantization": "int8"}, {}, "DoRA on int8"),
        ({"prefix": {"num_tokens": 3}}, {"runtime": {"activation_checkpointing": True}}, "activation_checkpointing"),
        ({}, {"vision_encoder": {"prefix": {"num_tokens": 3}}}, "prefix"),
        ({}, {"schedule": {"lr": 1e-3, "batch_size": 1, "neftune_alpha": 0.0}}, "neftune_alpha"),
    ],
)
def test_what_does_not_go_together_is_refused(standins, llm, others, message):
    with pytest.raises(RecipeError, match=message) as caught:
        recipe_of(standins, llm, **others)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_model_that_keeps_no_keys_and_values_takes_no_prefix():
    from transformers import MambaConfig, MambaForCausalLM

    mamba = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(RecipeError, match="MambaForCausalLM takes no prefix"):
        add_prefix(mamba, Prefix(num_tokens=3))


def test_each_part_has_its_learning_rate(standins):
    """Basic-Vision-Language-Model's: projector 1e-4, LoRA 3e-5."""
    recipe = recipe_of(standins, {"lora": LORA, "lr": 3e-5}, projector={"depth": 2, "lr": 1e-4})
    model = built(standins, recipe)
    wrapper = expand(recipe, total_steps=10)["optim_wrapper"]
    constructor = PartwiseOptimizer(
        {key: wrapper[key] for key in ("type", "optimizer", "clip_grad")}, wrapper["paramwise_cfg"]
    )
    groups = {group["name"]: group for group in constructor(model).optimizer.param_groups}
    assert {name: group["lr"] for name, group in groups.items()} == {"llm": 3e-5, "projector": 1e-4}
    of_lora = {id(p) for name, p in model.llm.named_parameters() if "lora_" in name}
    assert {id(p) for p in groups["llm"]["params"]} == of_lora
    told = {part.name: part.lr for part in check_trainable(model, recipe)}
    assert told == {"llm": 3e-5, "projector": 1e-4, "vision_encoder": 1e-3}


def test_the_recipe_reaches_the_model(standins):
    schedule = {"lr": 1e-3, "batch_size": 1, "neftune_alpha": 5.0}
    assert built(standins, recipe_of(standins, {}, schedule=schedule)).neftune_alpha == 5.0
    assert built(standins, recipe_of(standins, {})).neftune_alpha is None
