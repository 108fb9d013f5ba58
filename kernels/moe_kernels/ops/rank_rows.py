"""Which row each token has among those for other ranks, and the rows themselves, packed."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl

from moe_kernels.ops.launcher import Launcher, kept
from moe_kernels.ops.rows import in_words

_MOST_CHUNKS = 128
"""Every program reads the counts of all chunks, so that there should not be many."""
_LEAST_CHUNK = 32


@triton.jit
def _owners_of(
    token, topk_ids_ptr, owners_ptr, num_tokens, num_experts, top_k, TOP_K: tl.constexpr
):
    """The rank of each expert of these tokens, [tokens, TOP_K]; -1 for none."""
    slot = tl.arange(0, TOP_K)
    mask = (token < num_tokens)[:, None] & (slot < top_k)[None, :]
    expert = tl.load(topk_ids_ptr + token[:, None] * top_k + slot[None, :], mask=mask, other=-1)
    known = (expert >= 0) & (expert < num_experts)
    return tl.load(owners_ptr + tl.where(known, expert, 0), mask=known, other=-1)


@triton.jit(do_not_specialize=["num_tokens"])
def _count_kernel(
    topk_ids_ptr,
    owners_ptr,
    counts_ptr,
    num_tokens,
    num_experts,
    top_k,
    num_ranks,
    TOP_K: tl.constexpr,
    CHUNK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    owner = _owners_of(token, topk_ids_ptr, owners_ptr, num_tokens, num_experts, top_k, TOP_K)
    for rank in range(num_ranks):
        goes = tl.max((owner == rank).to(tl.int32), 1)
        tl.store(counts_ptr + tl.program_id(0) * num_ranks + rank, tl.sum(goes))


@triton.jit(do_not_specialize=["num_tokens", "num_rows"])
def _place_kernel(
    topk_ids_ptr,
    owners_ptr,
    counts_ptr,
    totals_ptr,
    places_ptr,
    source_ptr,
    lost_ptr,
    num_tokens,
    num_experts,
    top_k,
    num_ranks,
    capacity,
    num_rows,
    TOP_K: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    FIXED: tl.constexpr,
):
    this = tl.program_id(0)
    token = this.to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    exists = token < num_tokens
    owner = _owners_of(token, topk_ids_ptr, owners_ptr, num_tokens, num_experts, top_k, TOP_K)
    chunk = tl.arange(0, CHUNKS)
    first = this.to(tl.int64) * 0
    lost = tl.zeros((CHUNK,), dtype=tl.int32)
    for rank in range(num_ranks):
        is_chunk = chunk < tl.num_programs(0)
        count = tl.load(counts_ptr + chunk * num_ranks + rank, mask=is_chunk, other=0)
        goes = tl.max((owner == rank).to(tl.int32), 1)
        place = tl.sum(tl.where(chunk < this, count, 0)) + tl.cumsum(goes, 0) - 1
        fits = goes > 0
        if FIXED:
            first = this.to(tl.int64) * 0 + rank * capacity
            fits = fits & (place < capacity)
            lost = lost | ((goes > 0) & (place >= capacity)).to(tl.int32)
        row = tl.where(fits, first + place, num_rows)
        tl.store(places_ptr + token * num_ranks + rank, row, mask=exists)
        tl.store(source_ptr + row, token, mask=fits)
        total = tl.sum(count)
        if this == 0:
            tl.store(totals_ptr + rank, total.to(tl.int64))
        first += total
    if FIXED:
        tl.store(lost_ptr + token, lost > 0, mask=exists)


def rank_rows(
    topk_ids: torch.Tensor, owners: torch.Tensor, num_ranks: int, capacity: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """:func:`moe_kernels.prepare_finalize.all_to_all.places_of` on a GPU."""
    num_tokens, top_k = topk_ids.shape
    num_rows = num_ranks * capacity if capacity else num_tokens * min(num_ranks, top_k)
    source = topk_ids.new_full((num_rows,), -1, dtype=torch.int64)
    places = topk_ids.new_empty((num_tokens, num_ranks), dtype=torch.int64)
    totals = topk_ids.new_zeros(num_ranks, dtype=torch.int64)
    lost = topk_ids.new_empty(num_tokens, dtype=torch.bool) if capacity else None
    if num_tokens > 0:
        sizes = num_tokens, len(owners), top_k, num_ranks
        counting, placing, num_chunks = _launchers(*sizes, capacity or 0, num_rows)
        counts = topk_ids.new_empty(num_chunks * num_ranks, dtype=torch.int32)
        ids = topk_ids.contiguous()
        counting(ids, owners, counts)
        placing(ids, owners, counts, totals, places, source, lost)
    return places, source, totals, lost


@kept
def _launchers(
    num_tokens: int, num_experts: int, top_k: int, num_ranks: int, capacity: int, num_rows: int
) -> tuple[Launcher, Launcher, int]:
    """Of the counting and the placing kernel, and the number of their programs."""
    chunk = max(_LEAST_CHUNK, triton.next_power_of_2(triton.cdiv(num_tokens, _MOST_CHUNKS)))
    num_chunks = triton.cdiv(num_tokens, chunk)
    sizes = num_tokens, num_experts, top_k, num_ranks
    constants = {"TOP_K": triton.next_power_of_2(top_k), "CHUNK": chunk}
    placing = {"CHUNKS": triton.next_power_of_2(num_chunks), "FIXED": capacity > 0}
    return (
        Launcher(_count_kernel, (num_chunks,), sizes, constants),
        Launcher(_place_kernel, (num_chunks,), (*sizes, capacity, num_rows), constants | placing),
        num_chunks,
    )


@triton.jit
def _pack_kernel(
    index_ptr,
    tokens_ptr,
    scale_ptr,
    topk_weights_ptr,
    topk_ids_ptr,
    needed_ptr,
    out_tokens_ptr,
    out_scale_ptr,
    out_weights_ptr,
    out_ids_ptr,
    out_needed_ptr,
    num_experts,
    top_k,
    width,
    token_stride,
    groups,
    scale_stride,
    out_token_stride,
    out_stride,
    TOP_K: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_NEEDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(index_ptr + row)
    slot = tl.arange(0, TOP_K)
    inside = slot < top_k
    pair = token * top_k + slot
    # Without a token: an index below -1 is none either.
    has_pair = inside & (pair >= 0)
    expert = tl.load(topk_ids_ptr + pair, mask=has_pair, other=-1)
    known = (expert >= 0) & (expert < num_experts)
    ids = tl.where(known, expert, -1).to(tl.int32)
    tl.store(out_ids_ptr + row * out_stride + slot, ids, mask=inside)
    if HAS_NEEDED:
        tl.store(out_needed_ptr + row * out_stride, tl.load(needed_ptr))
    if token >= 0:
        weight = tl.load(topk_weights_ptr + pair, mask=inside).to(tl.float32)
        tl.store(out_weights_ptr + row * out_stride + slot, weight, mask=inside)
        if GROUPS > 0:
            group = tl.arange(0, GROUPS)
            scale = tl.load(scale_ptr + token * scale_stride + group, mask=group < groups)
            tl.store(out_scale_ptr + row * out_stride + group, scale, mask=group < groups)
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            value = tl.load(tokens_ptr + token * token_stride + column, mask=column < width)
            tl.store(out_tokens_ptr + row * out_token_stride + column, value, mask=column < width)


def pack_rows(
    index: torch.Tensor,
    tokens: torch.Tensor,
    scale: torch.Tensor | None,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    needed: torch.Tensor | None,
    num_experts: int,
    out: tuple[torch.Tensor | None, ...],
) -> None:
    """Copy the tokens ``index`` [R] int64 to ``out``; for -1 only ids, all -1, and ``needed``.

    The others as in :class:`moe_kernels.prepare_finalize.rows.TokenRows`, and ``out`` views of the
    same parts in packed rows. Ids that are not from 0 to num_experts become -1.
    """
    if len(index) == 0:
        return
    out_tokens, out_scale, out_weights, out_ids, out_needed = out
    assert out_tokens is not None
    assert out_ids is not None
    words, out_words = in_words(
        tokens if tokens.stride(1) == 1 else tokens.contiguous(), out_tokens
    )
    launcher = _pack_launcher(
        len(index),
        num_experts,
        topk_ids.shape[1],
        words.shape[1],
        words.stride(0),
        0 if scale is None else scale.shape[1],
        0 if scale is None else scale.stride(0),
        out_words.stride(0),
        out_ids.stride(0),
        needed is not None,
    )
    others = scale, topk_weights.contiguous(), topk_ids.contiguous(), needed
    launcher(index, words, *others, out_words, out_scale, out_weights, out_ids, out_needed)


@kept
def _pack_launcher(
    num_rows: int,
    num_experts: int,
    top_k: int,
    width: int,
    token_stride: int,
    groups: int,
    scale_stride: int,
    out_token_stride: int,
    out_stride: int,
    has_needed: bool,
) -> Launcher:
    strides = out_token_stride, out_stride
    constants = {
        "TOP_K": triton.next_power_of_2(top_k),
        "GROUPS": triton.next_power_of_2(groups) if groups > 0 else 0,
        "HAS_NEEDED": has_needed,
        "BLOCK": min(triton.next_power_of_2(width), 1024),
    }
    return Launcher(
        _pack_kernel,
        (num_rows,),
        (num_experts, top_k, width, token_stride, groups, scale_stride, *strides),
        constants,
        num_warps=4,
    )
