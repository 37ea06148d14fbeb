"""Attention that computes what is read: inside each of several samples in one row, and of some queries alone.

A mask over a row of several samples would have T × T entries for T tokens, and most of what it lets compute is thrown
away.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from vlmtool.utils.errors import UsageError

NAME = "vlmtool"
QUERIES_AT = "queries_at"
"""Name under which a layer is given the queries that are read: (S,) int64, ascending places in the batch's B * T."""

HALF = (torch.bfloat16, torch.float16)
TOLERANCE = {torch.float32: 1e-3}  # of the largest logit, where a few tokens go through a model both ways
COARSE = 0.1  # the same, in 16 bits


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    queries_at: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What a layer of transformers calls: of a packed row each sample by itself, of anything else as "sdpa" does.

    Args:
        query: (B, H, T, D); key and value: (B, H_kv, T, D); of a packed row B is 1.
        cu_seq_lens_q: (S + 1,) int32, where the S samples begin, and T; None: not packed.
        max_length_q: tokens of the longest.
        queries_at: those that are read, as `QUERIES_AT` has it; None: all.

    Returns:
        (B, T, H, D), anything where a query is not read; and no weights.
    """
    if cu_seq_lens_q is not None and max_length_q is not None:
        if _has_kernel(query, options):
            return _in_kernel(query, key, value, cu_seq_lens_q, max_length_q, options)
    elif queries_at is None or attention_mask is not None or key.shape[2] != query.shape[2]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return _each_sample(module, query, key, value, cu_seq_lens_q, queries_at, options), None


@torch.compiler.disable  # a graph would hold for these lengths alone, and every batch has others
def _each_sample(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor | None,
    queries_at: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    """Attention of `attend` in the samples that `bounds` has in one row, or, without, in each row."""
    dim, lengths = (0, [1] * query.shape[0]) if bounds is None else (2, bounds.diff().tolist())
    # One split: a slice of its own for each sample would have a gradient of the whole size for each.
    samples = list(zip(*(whole.split(lengths, dim) for whole in (query, key, value)), strict=True))
    sizes = [own[0].shape[2] for own in samples]
    wanted = [None] * len(samples) if queries_at is None else _inside(queries_at, sizes)
    parts = [_one(module, q, k, v, where, options) for (q, k, v), where in zip(samples, wanted, strict=True)]
    return torch.cat(parts, dim // 2)


def _inside(places: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Those of ascending places that lie in each of several stretches of these sizes, counted from where it begins."""
    ends = torch.tensor(sizes).cumsum(0)
    parts = places.tensor_split(torch.searchsorted(places.cpu(), ends[:-1]))
    return [part - (end - size) for part, end, size in zip(parts, ends.tolist(), sizes, strict=True)]


def _one(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, wanted: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """A sample by itself: causal, and no further back than a layer's window; zero where a query is not wanted."""
    window, length = options.get("sliding_window"), query.shape[2]
    if wanted is None and (window is None or length <= window):
        return _attended(module, query, key, value, None, options)
    queries = torch.arange(length, device=query.device) if wanted is None else wanted
    stop = int(queries[-1]) + 1 if len(queries) else 0  # keys behind the last query are read by none
    keys = torch.arange(stop, device=query.device)
    seen = keys <= queries[:, None]
    if window is not None:
        seen &= keys > queries[:, None] - window
    if wanted is None:
        return _attended(module, query, key, value, seen[None, None], options)
    shape = 1, length, query.shape[1], value.shape[-1]
    if not stop:
        return query.new_zeros(shape)
    some = query[:, :, wanted], key[:, :, :stop], value[:, :, :stop]
    attended = _attended(module, *some, seen[None, None], options)
    whole = attended.new_zeros(shape)  # autocast has a type of its own
    whole[:, wanted] = attended
    return whole


def _attended(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
) -> Tensor:
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


def use_attention(llm: PreTrainedModel) -> None:
    """Have a language model attend as `attend` does, in place.

    Raises:
        ValueError: its class has an attention of its own.
    """
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    llm.set_attn_implementation(NAME)


def take_packed_rows(llm: PreTrainedModel) -> None:
    """Have a language model attend as `attend` does, in place, and see on a few tokens that it does.

    Raises:
        UsageError: it attends in another way, or carries something from token to token beside attention.
    """
    reason = "its class has an attention of its own"
    try:
        use_attention(llm)
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
    with few_tokens(llm) as ids:
        alone = [llm(input_ids=part, use_cache=False).logits for part in ids.split(lengths, 1)]
        together = llm(input_ids=ids, use_cache=False, **packed_inputs(lengths, ids.device)).logits
    expected = torch.cat(alone, 1)
    return float((together - expected).abs().max() / expected.abs().max())


@contextmanager
def few_tokens(llm: PreTrainedModel) -> Iterator[Tensor]:
    """Ids (1, 14) to try a model with, which is in eval mode meanwhile, whatever happens."""
    was_training = llm.training
    llm.eval()
    try:
        yield torch.arange(14, device=llm.device)[None] * 7 % llm.get_input_embeddings().num_embeddings
    finally:
        llm.train(was_training)
