"""Of a language model's last block only what the wanted logits are made of.

Keys and values are read by every later position. What else the last block makes of a position, its query, what its
attention gives and its MLP, is read by that position's logits alone: where those are not wanted it is left out. The
loss and its gradients are the same; of N blocks it saves up to five sixths of one.
"""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from vlmtool.models.attention import COARSE, NAME, QUERIES_AT, TOLERANCE, few_tokens, use_attention
from vlmtool.models.llm import blocks_of

LOGITS_AT = "logits_at"
"""Name under which a narrowed model is given the positions: (S,) int64, places in the batch's B * T."""

# Names that most classes of transformers share.
ATTENTION, IN_ATTENTION, BESIDE_IT = "self_attn", ("q_proj", "o_proj"), ("post_attention_layernorm", "mlp")
FAILURES = (ValueError, TypeError, IndexError, AttributeError, NotImplementedError, RuntimeError)


def narrowable(llm: nn.Module) -> list[nn.Module]:
    """Modules of the last block that take and give (B, T, D), a position by itself, and need not see all of them."""
    block = next(reversed(blocks_of(llm)), None)
    attention = getattr(block, ATTENTION, None)
    if attention is None:
        return []
    found = [getattr(attention, name, None) for name in IN_ATTENTION]
    found += [getattr(block, name, None) for name in BESIDE_IT]
    return [module for module in found if isinstance(module, nn.Module)]


def narrow_last_block(llm: PreTrainedModel) -> bool:
    """Have the last block leave out what is not wanted wherever the model is called with `logits_at`, in place.

    Adapters must be there already.

    Returns:
        Whether a few tokens have the same logits then; where not, the model is as it was.
    """
    modules = narrowable(llm)
    if not modules:
        return False
    rows = _Rows()
    handles = rows.hook(blocks_of(llm)[-1].get_submodule(ATTENTION), modules)
    if _attends_to_some(llm) or _is_same(llm):
        return True
    for handle in handles:
        handle.remove()
    return False


def _attends_to_some(llm: PreTrainedModel) -> bool:
    """Whether on a CPU, where attention takes a third of a block's time, it too can leave out what is not wanted."""
    before = llm.config._attn_implementation
    if llm.device.type != "cpu" or before not in ("sdpa", NAME):
        return False
    with suppress(*FAILURES):
        use_attention(llm)
        if _is_same(llm):
            return True
    llm.set_attn_implementation(before)
    return False


class _Rows:
    """Which rows the modules of a block compute, from where its attention begins.

    The block's own hooks would not do: transformers computes a checkpointed block again without them.
    """

    def __init__(self) -> None:
        self.places: Tensor | None = None
        self.shape = torch.Size()

    def hook(self, attention: nn.Module, modules: list[nn.Module]) -> list[RemovableHandle]:
        """Hooks, to be removed by the caller."""
        handles = [attention.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for module in modules:
            handles.append(module.register_forward_pre_hook(self._select))
            handles.append(module.register_forward_hook(self._put_back))
        return handles

    def _begin(
        self, attention: Any, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.places = options.get(LOGITS_AT)
        if self.places is None or self.places.is_cuda or attention.config._attn_implementation != NAME:
            return inputs, options
        return inputs, {**options, QUERIES_AT: self.places}

    def _select(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.places is None:
            return inputs
        self.shape = inputs[0].shape[:2]
        return (inputs[0].flatten(0, 1)[self.places].unsqueeze(0), *inputs[1:])

    def _put_back(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self.places is None:
            return output
        whole = output.new_zeros(self.shape.numel(), output.shape[-1])
        whole[self.places] = output[0]
        return whole.unflatten(0, self.shape)


def _is_same(llm: PreTrainedModel) -> bool:
    try:
        return _difference(llm) <= TOLERANCE.get(llm.dtype, COARSE)
    except FAILURES:
        return False


@torch.no_grad()
def _difference(llm: PreTrainedModel) -> float:
    """With two choices of positions, so that what one leaves behind would show in the other; of the largest logit."""
    differences = []
    with few_tokens(llm) as row:
        ids = row.view(2, 7)
        whole = llm(input_ids=ids, use_cache=False).logits.flatten(0, 1)
        for places in ([0, 3, 6, 8], [5, 13]):
            wanted = torch.tensor(places, device=ids.device)
            some = llm(input_ids=ids, use_cache=False, **{LOGITS_AT: wanted}).logits.flatten(0, 1)
            differences.append((some - whole)[wanted].abs().max())
    return float(max(differences) / whole.abs().max())
