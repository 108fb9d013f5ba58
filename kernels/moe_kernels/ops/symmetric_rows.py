"""Rows of tokens written by a GPU straight into the memory of other ranks.

Every rank has a buffer at ``addresses`` [ranks] int64, and in it rows for each of ``capacity``
tokens of each rank: row r * capacity + t is for token t of rank r.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from moe_kernels.ops.launcher import Launcher, kept
from moe_kernels.ops.rows import in_words


@triton.jit
def _pointer(addresses_ptr, rank, offset, dtype: tl.constexpr):
    """Where a part of a rank's buffer begins."""
    address = tl.load(addresses_ptr + rank) + offset
    return tl.multiple_of(address.to(tl.pointer_type(dtype)), 16)


@triton.jit(do_not_specialize=["num_tokens", "this_rank"])
def _send_tokens_kernel(
    tokens_ptr,
    scale_ptr,
    topk_weights_ptr,
    topk_ids_ptr,
    owners_ptr,
    addresses_ptr,
    token_rows_ptr,
    num_tokens,
    this_rank,
    capacity,
    num_ranks,
    num_experts,
    top_k,
    width,
    token_stride,
    groups,
    scale_stride,
    scale_offset,
    weights_offset,
    ids_offset,
    TOP_K: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Ranks begin with different ones, so that no link has to carry all of them at once.
    rank = (tl.program_id(0) + this_rank) % num_ranks
    token = (tl.program_id(0) // num_ranks).to(tl.int64)
    there = this_rank * capacity + token
    slot = tl.arange(0, TOP_K)
    pair = token * top_k + slot
    inside = slot < top_k
    exists = inside & (pair < num_tokens * top_k)
    expert = tl.load(topk_ids_ptr + pair, mask=exists, other=-1)
    known = (expert >= 0) & (expert < num_experts)
    owner = tl.load(owners_ptr + tl.where(known, expert, 0), mask=known, other=-1)
    ids_ptr = _pointer(addresses_ptr, rank, ids_offset, tl.int32) + there * top_k
    ids = tl.where(owner == rank, expert, -1).to(tl.int32)
    tl.store(ids_ptr + slot, ids, mask=inside)
    goes = tl.max((owner == rank).to(tl.int32), 0) > 0
    if token < num_tokens:
        row = rank * capacity + token
        row = tl.where(goes, row, num_ranks * capacity)
        tl.store(token_rows_ptr + token * num_ranks + rank, row)
    if goes:
        weights_ptr = _pointer(addresses_ptr, rank, weights_offset, tl.float32) + there * top_k
        weight = tl.load(topk_weights_ptr + pair, mask=inside).to(tl.float32)
        tl.store(weights_ptr + slot, weight, mask=inside)
        if GROUPS > 0:
            group = tl.arange(0, GROUPS)
            scale = tl.load(scale_ptr + token * scale_stride + group, mask=group < groups)
            theirs = _pointer(addresses_ptr, rank, scale_offset, tl.float32) + there * groups
            tl.store(theirs + group, scale, mask=group < groups)
        out_ptr = _pointer(addresses_ptr, rank, 0, tokens_ptr.dtype.element_ty) + there * width
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            value = tl.load(tokens_ptr + token * token_stride + column, mask=column < width)
            tl.store(out_ptr + column, value, mask=column < width)


def send_tokens(
    tokens: torch.Tensor,
    scale: torch.Tensor | None,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    owners: torch.Tensor,
    addresses: torch.Tensor,
    token_rows: torch.Tensor,
    offsets: Sequence[int],
    capacity: int,
    this_rank: int,
) -> None:
    """Write each token to the ranks that have experts for it, and -1 as ids to the others.

    tokens: [M, K] of any dtype, scale: [M, groups] float32 or None, the elements of a row side by
    side. topk_weights, topk_ids: [M, topk], contiguous, any ids. owners: [num_experts] int32, the
    rank of each expert. offsets: of scales, weights (float32) and ids (int32) in each buffer; that
    of tokens is 0. Ids of rows beyond M are -1, too, and so are those of other ranks' experts.
    token_rows: [M, ranks] int64, filled with the row in which the part of each rank that a token
    went to returns; ranks * capacity for none.
    """
    if capacity == 0:
        return
    num_tokens, num_ranks = token_rows.shape
    (words,) = in_words(tokens)
    launcher = _tokens_launcher(
        num_tokens,
        this_rank,
        capacity,
        num_ranks,
        len(owners),
        topk_ids.shape[1],
        words.shape[1],
        words.stride(0),
        0 if scale is None else scale.shape[1],
        0 if scale is None else scale.stride(0),
        *offsets,
    )
    launcher(words, scale, topk_weights, topk_ids, owners, addresses, token_rows)


@kept
def _tokens_launcher(
    num_tokens: int,
    this_rank: int,
    capacity: int,
    num_ranks: int,
    num_experts: int,
    top_k: int,
    width: int,
    token_stride: int,
    groups: int,
    scale_stride: int,
    *offsets: int,
) -> Launcher:
    sizes = num_tokens, this_rank, capacity, num_ranks, num_experts, top_k, width, token_stride
    constants = {
        "TOP_K": triton.next_power_of_2(top_k),
        "GROUPS": triton.next_power_of_2(groups) if groups > 0 else 0,
        "BLOCK": min(triton.next_power_of_2(width), 1024),
    }
    return Launcher(
        _send_tokens_kernel,
        (capacity * num_ranks,),
        (*sizes, groups, scale_stride, *offsets),
        constants,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["this_rank"])
def _send_sums_kernel(
    x_ptr,
    topk_weights_ptr,
    topk_ids_ptr,
    addresses_ptr,
    this_rank,
    capacity,
    num_ranks,
    top_k,
    width,
    TOP_K: tl.constexpr,
    SUMMED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rank = (tl.program_id(0) + this_rank) % num_ranks
    token = tl.program_id(0) // num_ranks
    row = rank.to(tl.int64) * capacity + token
    slot = tl.arange(0, TOP_K)
    pair = row * top_k + slot
    local = tl.load(topk_ids_ptr + pair, mask=slot < top_k, other=-1) >= 0
    if tl.max(local.to(tl.int32), 0) > 0:
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < width
        if SUMMED:
            total = tl.load(x_ptr + row * width + column, mask=inside)
        else:
            weight = tl.load(topk_weights_ptr + pair, mask=local, other=0.0)
            mask = local[:, None] & inside[None, :]
            value = tl.load(x_ptr + pair[:, None] * width + column[None, :], mask=mask, other=0.0)
            total = tl.sum(value.to(tl.float32) * weight[:, None], 0)
        dtype: tl.constexpr = x_ptr.dtype.element_ty
        there = this_rank.to(tl.int64) * capacity + token
        out_ptr = _pointer(addresses_ptr, rank, 0, dtype) + there * width
        tl.store(out_ptr + column, total.to(dtype), mask=inside)


def send_sums(
    x: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    addresses: torch.Tensor,
    capacity: int,
    this_rank: int,
) -> None:
    """Weigh and sum each received token's rows in float32, and write that to the token's rank.

    topk_weights (float32), topk_ids (-1: not on this rank): [ranks * capacity, topk]. x: [ranks *
    capacity * topk, H], rows of -1 hold anything; or one row per token, summed already. All
    contiguous. A token without an expert here writes nothing.
    """
    num_rows, top_k = topk_ids.shape
    if num_rows == 0:
        return
    summed = len(x) == num_rows
    launcher = _sums_launcher(this_rank, capacity, len(addresses), top_k, x.shape[1], summed)
    launcher(x, topk_weights, topk_ids, addresses)


@kept
def _sums_launcher(
    this_rank: int, capacity: int, num_ranks: int, top_k: int, width: int, summed: bool
) -> Launcher:
    block = min(triton.next_power_of_2(width), 512)
    return Launcher(
        _send_sums_kernel,
        (capacity * num_ranks, triton.cdiv(width, block)),
        (this_rank, capacity, num_ranks, top_k, width),
        {"TOP_K": triton.next_power_of_2(top_k), "SUMMED": summed, "BLOCK": block},
        num_warps=2,  # with as many columns as one load of each thread has
    )
