"""Rows that share a trunk: their logits are those of rows with a copy each, on every class that may share."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from tests.chat.conftest import tiny_llm
from vlmtool.chat.decoder import Decoder
from vlmtool.chat.slots import SHARING, Slots, takes_any_mask
from vlmtool.models.last_block import narrow_last_block

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip
OWN = {
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "mistral": {"sliding_window": None},
    "mixtral": {"num_local_experts": 2},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "starcoder2": {"sliding_window": None},
    "glm": {"head_dim": 8},
    "glm4": {"head_dim": 8},
    "bloom": {"n_head": 4, "n_layer": 2},
}
NOT_SHARING = ["gemma2", "gemma3_text", "bloom", "doge"]


def tiny(name: str, **changes):
    config = CONFIG_MAPPING[name](**{**SIZES, **OWN.get(name, {}), **changes})
    torch.manual_seed(0)
    llm = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    llm.requires_grad_(False)
    return llm


def rows_of(llm, *lengths: int) -> list[torch.Tensor]:
    return [torch.randn(length, llm.get_input_embeddings().weight.shape[1]) for length in lengths]


def padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    embeds = torch.stack([torch.cat([row.new_zeros(longest - len(row), row.shape[1]), row]) for row in rows])
    return embeds, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])


@torch.no_grad()
def run(llm, share: bool) -> tuple[list[torch.Tensor], list[int]]:
    """Two trunks, five rows, rows that end, and one that branches anew: logits, and the cache's rows after each."""
    torch.manual_seed(1)
    decoder = Decoder(llm)
    decoder._may_share &= share
    logits = [decoder.prefill(*padded(rows_of(llm, 11, 8)))]
    steps, cached = [], []

    def go(rows: list[int], act) -> None:
        decoder.keep(rows)
        steps.append(act())
        cached.append(len(decoder.kv.layers[0].keys))

    go([0, 0, 0, 1, 1], lambda: decoder.prefill(*padded(rows_of(llm, 3, 5, 4, 2, 4))))
    go([0, 1, 2, 3, 4], lambda: decoder.feed(torch.tensor([5, 6, 7, 8, 9])))
    go([0, 2, 4], lambda: decoder.feed(torch.tensor([9, 8, 7])))
    go([0, 0, 1, 2, 2], lambda: decoder.prefill(*padded(rows_of(llm, 2, 1, 2, 2, 2))))
    go([0, 1, 2], lambda: decoder.feed(torch.tensor([3, 4, 3])))
    go([1], lambda: decoder.feed(torch.tensor([2])))
    return [*logits, *steps], cached


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("name", SHARING)
def test_rows_over_one_trunk_say_what_they_say_alone(name, trains):
    llm = tiny(name)
    if trains:  # benchmarks are answered during training, too
        narrow_last_block(llm)
    assert takes_any_mask(llm)
    (shared, cached), (alone, copied) = run(llm, True), run(llm, False)
    assert cached == [2, 2, 2, 2, 1, 1] and copied == [5, 5, 3, 5, 3, 1]
    for one, other in zip(shared, alone, strict=True):
        assert one.shape == other.shape and other.std() > 0.1
        assert torch.allclose(one, other, atol=2e-5, rtol=0), (one - other).abs().max()


@pytest.mark.parametrize("name", NOT_SHARING)
def test_windows_and_masks_of_their_own_take_copies(name):
    assert not takes_any_mask(tiny(name))
    assert run(tiny(name), True)[1] == [5, 5, 3, 5, 3, 1]


def test_a_window_and_other_kernels_take_copies():
    assert not takes_any_mask(tiny("mistral", sliding_window=4))
    for kernel in ("eager", "flash_attention_2"):
        llm = tiny("llama")
        llm.config._attn_implementation = kernel
        assert not takes_any_mask(llm)
    assert not takes_any_mask(torch.nn.Linear(1, 1))


def test_an_adapter_does_not_hide_what_the_llm_may():
    assert takes_any_mask(get_peft_model(tiny_llm(), LoraConfig(target_modules=["q_proj"])))


def test_few_rows_on_many_trunks_take_copies():
    """One trunk of many rows among trunks of one: most slots would be empty."""
    assert Slots([0, 0, 1, 1]).are_worth_it and not Slots([0] * 6 + [1, 2, 3]).are_worth_it
    llm = tiny_llm()
    with torch.no_grad():
        decoder = Decoder(llm)
        decoder.prefill(*padded(rows_of(llm, 4, 4, 4, 4)))
        decoder.keep([0] * 6 + [1, 2, 3])
    assert len(decoder.kv.layers[0].keys) == 9
