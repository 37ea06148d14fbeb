"""A narrowed last block against the whole one, through transformers' own classes."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)  # fmt: skip

from tests.models.conftest import batch
from tests.models.llm_parts import COMMON, SIZE
from vlmtool.models.attention import take_packed_rows
from vlmtool.models.last_block import LOGITS_AT, narrow_last_block
from vlmtool.models.llm import blocks_of

MADE = COMMON | {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZE)),  # norms the queries
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZE)),  # norms after the MLP
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SIZE)),  # attention and MLP side by side
    "phi": lambda: PhiForCausalLM(PhiConfig(**SIZE)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZE, num_local_experts=2, num_experts_per_tok=1)),
}
IDS = torch.randint(1, 128, (3, 10), generator=torch.Generator().manual_seed(5))
PLACES = torch.tensor([3, 4, 9, 21, 28])


@pytest.fixture(params=MADE)
def llm(request):
    torch.manual_seed(0)
    return MADE[request.param]()


def logits_and_gradients(llm, **options):
    llm.zero_grad()
    logits = llm(input_ids=IDS, use_cache=False, **options).logits.flatten(0, 1)[PLACES]
    logits.square().sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in llm.named_parameters() if p.grad is not None}


def rows_through(module, call):
    """How many positions a module is given in a call."""
    seen = []
    handle = module.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[:-1].numel()))
    call()
    handle.remove()
    return seen


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_logits_and_gradients_are_the_same(llm, recomputed):
    llm.train()
    expected, reference = logits_and_gradients(llm)
    assert narrow_last_block(llm)
    if recomputed:
        llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    narrow = blocks_of(llm)[-1].mlp
    assert rows_through(narrow, lambda: llm(input_ids=IDS, use_cache=False, **{LOGITS_AT: PLACES}))[0] == len(PLACES)
    actual, gradients = logits_and_gradients(llm, **{LOGITS_AT: PLACES})
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == reference.keys()
    for name, gradient in reference.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_without_positions_it_is_as_before(llm):
    with torch.no_grad():
        expected = llm(input_ids=IDS).logits
        greedy = llm.generate(IDS, max_new_tokens=5, do_sample=False)
        assert narrow_last_block(llm)
        llm(input_ids=IDS, **{LOGITS_AT: PLACES})
        assert torch.equal(llm(input_ids=IDS).logits, expected)
        llm(input_ids=IDS, **{LOGITS_AT: PLACES})
        assert torch.equal(llm.generate(IDS, max_new_tokens=5, do_sample=False), greedy)


def test_queries_and_what_attention_gives_are_left_out_too():
    llm = MADE["llama"]()
    assert narrow_last_block(llm)
    attention = blocks_of(llm)[-1].self_attn
    rows = {
        name: rows_through(getattr(attention, name), lambda: llm(input_ids=IDS, **{LOGITS_AT: PLACES}))
        for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    }
    assert rows == {"q_proj": [5], "k_proj": [30], "v_proj": [30], "o_proj": [5]}
    norm = blocks_of(llm)[-1].post_attention_layernorm
    assert rows_through(norm, lambda: llm(input_ids=IDS, **{LOGITS_AT: PLACES})) == [5]
    earlier = blocks_of(llm)[0].mlp
    assert rows_through(earlier, lambda: llm(input_ids=IDS, **{LOGITS_AT: PLACES})) == [30]


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_have_the_same_gradients(dora):
    torch.manual_seed(0)
    targets = ["q_proj", "v_proj", "o_proj", "down_proj"]
    llm = get_peft_model(MADE["llama"](), LoraConfig(target_modules=targets, use_dora=dora, init_lora_weights=False))
    expected, reference = logits_and_gradients(llm)
    assert narrow_last_block(llm)
    actual, gradients = logits_and_gradients(llm, **{LOGITS_AT: PLACES})
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == reference.keys() and any("layers.1" in name for name in gradients)
    for name, gradient in reference.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
def test_a_composed_model_has_the_same_loss_and_gradients(vlm, packed):
    inputs = batch()
    if packed:
        take_packed_rows(vlm.llm)
        lengths = [int(row.count_nonzero()) for row in inputs["input_ids"]]
        inputs["labels"][:, 0] = -100  # the end of a sample is not asked for the first token of the next
        for name in ("input_ids", "labels"):
            inputs[name] = torch.cat([row[:n] for row, n in zip(inputs[name], lengths, strict=True)])[None]
        inputs |= {"lengths": lengths, "packed": True}
    found = []
    for is_narrowed in (False, narrow_last_block(vlm.llm)):
        vlm.is_narrowed = is_narrowed
        vlm.zero_grad()
        loss = vlm(**inputs)
        loss.total.backward()
        found.append([loss.total.detach(), *(p.grad.clone() for p in vlm.projector.parameters())])
    assert vlm.is_narrowed
    for whole, narrowed in zip(*found, strict=True):
        torch.testing.assert_close(narrowed, whole, rtol=1e-5, atol=1e-6)
    attended = rows_through(blocks_of(vlm.llm)[-1].mlp, lambda: vlm(**inputs))
    assert attended == [int(vlm(**inputs).num_tokens)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: MambaForCausalLM(MambaConfig(vocab_size=128, hidden_size=64, num_hidden_layers=2)),
        lambda: BloomForCausalLM(BloomConfig(vocab_size=128, hidden_size=64, n_layer=2, n_head=4)),
    ],
)
def test_what_is_made_otherwise_stays_as_it_is(make):
    llm = make()
    llm.eval()
    with torch.no_grad():
        expected = llm(input_ids=IDS).logits
        assert not narrow_last_block(llm)
        assert torch.equal(llm(input_ids=IDS).logits, expected)


def test_a_last_block_that_looks_across_positions_stays_as_it_is():
    """Its "mlp" adds up what stands before: with some of the positions it would give something else."""

    class Across(torch.nn.Module):
        def forward(self, hidden):
            return hidden.cumsum(-2)

    llm = MADE["llama"]()
    block = blocks_of(llm)[-1]
    block.mlp = Across()
    assert not narrow_last_block(llm.train())
    assert llm.training
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in block.modules())
