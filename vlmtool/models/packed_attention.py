"""Attention inside each of several samples that lie in one row, one behind the other, with no mask over the whole row.

A mask would have T × T entries for a row of T tokens, and most of what it lets compute is thrown away.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from vlmtool.utils.errors import UsageError

NAME = "vlmtool_packed"
HALF = (torch.bfloat16, torch.float16)
TOLERANCE = {torch.float32: 1e-3}  # of the largest value, for `check_packing`
COARSE = 0.1  # the same, in 16 bits


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What a layer of transformers calls: of a packed row each sample by itself, of anything else as "sdpa" does.

    Args:
        query: (B, H, T, D); key and value: (B, H_kv, T, D); of a packed row B is 1.
        cu_seq_lens_q: (S + 1,) int32, where the S samples begin, and T; None: not packed.
        max_length_q: tokens of the longest.

    Returns:
        (B, T, H, D), and no weights.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if _has_kernel(query, options):
        return _in_kernel(query, key, value, cu_seq_lens_q, max_length_q, options)
    bounds = cu_seq_lens_q.tolist()
    parts = [
        _one(module, query[:, :, first:last], key[:, :, first:last], value[:, :, first:last], options)
        for first, last in zip(bounds, bounds[1:], strict=False)
    ]
    return torch.cat(parts, 1), None


def _one(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    """A sample by itself: causal, and no further back than a layer's window."""
    window, length = options.get("sliding_window"), query.shape[2]
    mask = None
    if window is not None and length > window:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)[None, None]
    attended: Tensor = sdpa_attention_forward(module, query, key, value, mask, **options)[0]
    return attended


def _has_kernel(query: Tensor, options: dict[str, Any]) -> bool:
    """Flash attention over rows of many samples, which torch has for 16 bits on a GPU."""
    lower = torch.is_autocast_enabled("cuda") or query.dtype in HALF
    return query.is_cuda and lower and not options.get("dropout")


def _in_kernel(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, options: dict[str, Any]
) -> tuple[Tensor, None]:
    from torch.nn.attention.varlen import varlen_attn

    dtype = query.dtype if query.dtype in HALF else torch.get_autocast_dtype("cuda")
    query, key, value = (t[0].transpose(0, 1).to(dtype) for t in (query, key, value))  # (T, H, D)
    window = options.get("sliding_window")
    attended: Any = varlen_attn(
        query, key, value, bounds, bounds, longest, longest, scale=options.get("scaling"), enable_gqa=True,
        window_size=(-1 if window is None else window - 1, 0),
    )  # fmt: skip
    return attended[None], None


def packed_inputs(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What a language model is given beside the embeddings (1, T) of samples of these lengths."""
    bounds = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    bounds[1:] = torch.tensor(lengths).cumsum(0)
    bounds = bounds.to(device)
    return {
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None].to(device),
        # Of four dimensions, so that transformers takes it as it is and makes none of T × T. Nobody reads it.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def take_packed_rows(llm: PreTrainedModel) -> None:
    """Have a language model attend as `packed_attention` does, in place, and see on a few tokens that it does.

    Raises:
        UsageError: it attends in another way, or carries something from token to token beside attention.
    """
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    reason = "its class has an attention of its own"
    try:
        llm.set_attn_implementation(NAME)
        difference = _difference(llm)
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        reason, difference = str(error).partition("\n")[0], float("inf")
    if difference > TOLERANCE.get(llm.dtype, COARSE):
        raise UsageError(
            f"schedule.pack_to: {type(llm).__name__} cannot take several samples in one row: {reason}.\n"
            "Leave pack_to out; data.sampler='length' saves most of the padding."
        )


@torch.no_grad()
def _difference(llm: PreTrainedModel) -> float:
    """Between two samples in one row and each by itself: the largest, relative to the largest logit."""
    lengths = (5, 9)
    vocabulary, device = llm.get_input_embeddings().num_embeddings, llm.device
    ids = torch.arange(sum(lengths), device=device)[None] * 7 % vocabulary
    was_training = llm.training
    llm.eval()
    alone = [llm(input_ids=part, use_cache=False).logits for part in ids.split(lengths, 1)]
    together = llm(input_ids=ids, use_cache=False, **packed_inputs(lengths, device)).logits
    llm.train(was_training)
    expected = torch.cat(alone, 1)
    return float((together - expected).abs().max() / expected.abs().max())
