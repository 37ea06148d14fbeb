"""Checkpoints as a training writes them, of models whose adapters and projector hold random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from vlmtool.data.templates.library import find_template
from vlmtool.data.tokenizer import image_token_id, load_tokenizer
from vlmtool.engine.build import build_model
from vlmtool.engine.meta import checkpoint_meta, part_origins
from vlmtool.models.checkpoint import encode_checkpoint
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.models.weights import saved_state
from vlmtool.recipe.load import parse_recipe
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.pixels import Pixels

LORA = {"r": 8, "alpha": 16.0}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Trained:
    """A model as it stands in training, and its checkpoint."""

    recipe: Recipe
    model: VisionLanguageModel
    path: Path


Train = Callable[..., Trained]


def input_ids() -> torch.Tensor:
    return torch.randint(3, 384, (2, 12), generator=torch.Generator().manual_seed(1))


def pixels() -> Pixels:
    return Pixels.one_view_each(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)))


@torch.no_grad()
def logits(llm: torch.nn.Module) -> torch.Tensor:
    return llm.eval()(input_ids=input_ids()).logits.float()


@torch.no_grad()
def features(vision_model: torch.nn.Module) -> torch.Tensor:
    """Hidden states at layer -2 of a whole vision model of 3 blocks."""
    states = vision_model.eval()(pixels().values, output_hidden_states=True).hidden_states
    assert len(states) == 4
    return states[-2]


def plain_llm(folder: Path, **arguments: Any) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, **arguments)


def sections(standins, llm: dict[str, Any], vision_encoder: dict[str, Any], **others: Any) -> dict[str, Any]:
    """A recipe on the stand-ins."""
    return {
        "llm": {"path": str(standins.llama), "template": "vicuna", **llm},
        "vision_encoder": {"path": str(standins.clip), **vision_encoder},
        "projector": {"depth": 2},
        "data": {"path": str(standins.data), "pad_to_square": True},
        "schedule": {"lr": 1e-3, "batch_size": 1},
        **others,
    }


@pytest.fixture
def train(standins, tmp_path: Path) -> Train:
    """`train(llm={"lora": LORA})` builds the model of a recipe, shakes what is trained, and writes `iter_7.pth`."""

    def make(llm: dict[str, Any] | None = None, vision_encoder: dict[str, Any] | None = None, **others: Any) -> Trained:
        recipe = parse_recipe(sections(standins, llm or {}, vision_encoder or {}, **others), "test")
        folders = {"llm": Path(recipe.llm.path), "vision_encoder": Path(recipe.vision_encoder.path)}
        tokenizer = load_tokenizer(folders["llm"])
        torch.manual_seed(0)
        model = build_model(recipe, folders, image_token_id(tokenizer), CPU).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(torch.randn_like(weight), alpha=0.05)
        template = find_template(recipe.llm.template, tokenizer.chat_template)
        origins = part_origins(recipe, folders)
        meta = checkpoint_meta("test", recipe, origins, model, template, {"path": "x.json"}, [])
        path = tmp_path / "run" / "iter_7.pth"
        path.parent.mkdir(exist_ok=True)
        encode_checkpoint(path, {**meta, "step": 7, "epoch": 0}, saved_state(model))
        return Trained(recipe, model, path)

    return make
