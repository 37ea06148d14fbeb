"""Several samples in one row against each by itself, through transformers' own classes."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)  # fmt: skip
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.models.llm_parts import COMMON, SIZE
from vlmtool.models.attention import NAME, attend, packed_inputs, take_packed_rows
from vlmtool.models.llm import blocks_of
from vlmtool.utils.errors import UsageError

LENGTHS = (7, 1, 12, 5)
MADE = COMMON | {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZE, sliding_window=4)),
}


@pytest.fixture(params=MADE)
def llm(request):
    torch.manual_seed(0)
    return MADE[request.param]()


def gradients(llm, loss):
    llm.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in llm.named_parameters()}


def test_logits_and_gradients_are_those_of_each_sample_alone(llm):
    parts = [torch.randint(1, 128, (1, length)) for length in LENGTHS]
    expected = [llm(input_ids=part, use_cache=False).logits for part in parts]
    reference = gradients(llm, sum(logits.square().sum() for logits in expected))
    take_packed_rows(llm)
    together = llm(input_ids=torch.cat(parts, 1), use_cache=False, **packed_inputs(LENGTHS, torch.device("cpu"))).logits
    torch.testing.assert_close(together, torch.cat(expected, 1), rtol=1e-4, atol=1e-6)
    packed = gradients(llm, together.square().sum())
    for name, gradient in reference.items():
        torch.testing.assert_close(packed[name], gradient, rtol=1e-3, atol=1e-4)


def test_compiled_blocks_take_other_lengths_as_they_are():
    llm = MADE["llama"]()
    take_packed_rows(llm)
    counter = CompileCounter()
    for block in blocks_of(llm):
        block.compile(dynamic=True, backend=counter)
    made = []
    for lengths in ((7, 12, 5), (6, 9), (3, 4, 8), (11, 2, 9, 5), (20,), (2, 2, 2, 2, 2, 2)):
        llm(input_ids=torch.ones(1, sum(lengths), dtype=torch.int64), **packed_inputs(lengths, torch.device("cpu")))
        made.append(counter.frame_count)
    assert made[0] and len(set(made[1:])) == 1, made


def test_what_is_not_packed_is_as_before(llm):
    ids = torch.randint(1, 128, (3, 10))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    with torch.no_grad():
        expected = llm(input_ids=ids, attention_mask=mask).logits
        greedy = llm.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
        take_packed_rows(llm)
        assert llm.config._attn_implementation == NAME
        actual = llm(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(llm.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False), greedy)
    torch.testing.assert_close(actual[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize(
    "make",
    [
        lambda: MambaForCausalLM(MambaConfig(vocab_size=128, hidden_size=64, num_hidden_layers=2)),
        lambda: BloomForCausalLM(BloomConfig(vocab_size=128, hidden_size=64, n_layer=2, n_head=4)),
        lambda: Gemma2ForCausalLM(Gemma2Config(**SIZE)),  # soft-capped scores
    ],
)
def test_what_attends_in_another_way_is_refused(make):
    with pytest.raises(UsageError, match=r"schedule\.pack_to: \w+ cannot take several samples in one row"):
        take_packed_rows(make())


def test_no_mask_of_the_whole_row_is_made(llm, monkeypatch):
    """Nothing as large as T × T is allocated."""
    take_packed_rows(llm)
    lengths = (40,) * 50  # a mask would have 4 million entries
    ids = torch.randint(1, 128, (1, sum(lengths)))
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for value in result if isinstance(result, tuple) else (result,):
                if isinstance(value, torch.Tensor):
                    largest = max(largest, value.numel())
            return result

    with Largest(), torch.no_grad():
        llm.get_decoder()(input_ids=ids, use_cache=False, **packed_inputs(lengths, torch.device("cpu")))
    assert largest < sum(lengths) ** 2 / 4


@pytest.mark.parametrize(("packed", "window"), [(False, None), (True, None), (True, 4)])
def test_queries_that_are_not_read_are_left_out(packed, window, monkeypatch):
    torch.manual_seed(0)
    shape = (1, 4, sum(LENGTHS), 16) if packed else (3, 4, 9, 16)
    query, key, value = (torch.randn(shape) for _ in range(3))
    around = packed_inputs(LENGTHS, torch.device("cpu")) if packed else {}
    options = {name: around[name] for name in ("cu_seq_lens_q", "max_length_q") if packed} | {"sliding_window": window}
    module = torch.nn.Module()
    module.is_causal = True
    expected = attend(module, query, key, value, None, **options)[0].flatten(0, 1)
    seen = []

    def counting(module, query, *others, **options):
        seen.append(query.shape[2])
        return sdpa_attention_forward(module, query, *others, **options)

    monkeypatch.setattr("vlmtool.models.attention.sdpa_attention_forward", counting)
    places = torch.tensor([0, 3, 6, 13, 15, 24])  # none of the second sample of the packed ones
    actual = attend(module, query, key, value, None, queries_at=places, **options)[0].flatten(0, 1)
    torch.testing.assert_close(actual[places], expected[places])
    assert sum(seen) == len(places)
    actual[places] = 0
    assert not actual.any()
