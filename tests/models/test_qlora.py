"""NF4 on a CPU: an evaluation in the middle of training must not cut the gradients (bitsandbytes repacks weights)."""

import torch

from tests.models.conftest import IMAGE_TOKEN, batch, clip, llama
from vlmtool.models.build import build_llm
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.recipe.parts import Lora

LORA = Lora(r=8, alpha=16.0)


def quantized(tmp_path) -> VisionLanguageModel:
    llama().save_pretrained(tmp_path / "llm")
    torch.manual_seed(5)
    llm = build_llm(tmp_path / "llm", torch.float32, "nf4", LORA)
    encoder = VisionEncoder(clip()).requires_grad_(False)
    return VisionLanguageModel(encoder, MLPProjector(64, 64), llm, IMAGE_TOKEN)


def gradients(model) -> dict[str, torch.Tensor]:
    model.train().zero_grad()
    model(**batch()).total.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def test_evaluation_leaves_the_gradients_as_they_were(tmp_path):
    model = quantized(tmp_path)
    for name, parameter in model.named_parameters():  # B starts at zero, which would hide A's gradient
        if parameter.requires_grad and "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = gradients(model)
    with torch.no_grad():
        model.eval()(**batch())
    after = gradients(model)
    assert before.keys() == after.keys() and len(before) == 4 + 2 * 2 * 7
    for name in before:
        assert before[name].abs().sum() > 0, name
        torch.testing.assert_close(after[name], before[name], msg=name)


def test_only_adapters_and_projector_are_trained(tmp_path):
    model = quantized(tmp_path)
    kinds = {type(p).__name__ for n, p in model.llm.named_parameters() if not p.requires_grad}
    assert "Params4bit" in kinds
    assert all(("lora_" in n) or n.startswith("projector.") for n, p in model.named_parameters() if p.requires_grad)
