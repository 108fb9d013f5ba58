"""The programs of :mod:`moe_kernels.ops.quantize_scaled`: over scales of groups, or one for all."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from moe_kernels.ops.programmatic_launch import let_next_start, wait_for_previous
from moe_kernels.ops.quotient import bounded_quotient, quotient
from moe_kernels.ops.routing import local_expert


@triton.jit
def _stored(x, scale, largest, dtype: tl.constexpr):
    """``x`` over its scale as ``dtype``; to integers, rounded to nearest even."""
    value = bounded_quotient(x, scale, largest)
    if dtype == tl.int8:
        # At 1.5 * 2^23 the lowest bit of a float32 counts ones.
        value = (value + 12582912.0) - 12582912.0
    return value.to(dtype)


@triton.jit(do_not_specialize=["num_experts", "num_pairs"])
def quantize_groups_kernel(
    x_ptr,
    out_ptr,
    scale_ptr,
    topk_ids_ptr,
    expert_map_ptr,
    sorted_token_ids_ptr,
    num_tokens_post_padded_ptr,
    num_experts,
    top_k,
    num_pairs,
    num_groups,
    groups_per_row,
    columns,
    stride_m,
    stride_k,
    stride_sm,
    stride_sk,
    min_amax,
    largest,
    GROUP: tl.constexpr,
    SOME_ROWS: tl.constexpr,
    SORTED: tl.constexpr,
    X_IS_SORTED: tl.constexpr,
    OUT_IS_SORTED: tl.constexpr,
    TOP_K: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    ROUTING_IS_OLDER: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Quantize rows in groups of columns, each over a scale of its own, which is stored."""
    if ROUTING_IS_OLDER:
        let_next_start(PROGRAMMATIC)
    wait_for_previous(PROGRAMMATIC)
    offset = tl.arange(0, BLOCK_COLUMNS)
    end = num_groups
    if SORTED:
        end = tl.load(num_tokens_post_padded_ptr) * groups_per_row
    for start in range(tl.program_id(0) * BLOCK_GROUPS, end, tl.num_programs(0) * BLOCK_GROUPS):
        group = start + tl.arange(0, BLOCK_GROUPS)
        row = (group // groups_per_row).to(tl.int64)
        group = group % groups_per_row
        column = (group * GROUP)[:, None] + offset[None, :]
        exists = start + tl.arange(0, BLOCK_GROUPS) < end
        out_row = row
        if SORTED:
            # Padding is no pair.
            pair = tl.load(sorted_token_ids_ptr + row, mask=exists, other=num_pairs)
            exists &= pair < num_pairs
            if not X_IS_SORTED:
                row = (pair // top_k).to(tl.int64)
            if not OUT_IS_SORTED:
                out_row = row
        elif SOME_ROWS:
            slot = tl.arange(0, TOP_K)
            pair = row[:, None] * top_k + slot[None, :]
            known = exists[:, None] & (slot < top_k)[None, :]
            local = local_expert(topk_ids_ptr, pair, known, expert_map_ptr, num_experts, True)
            exists &= tl.max(local, 1) >= 0
        mask = exists[:, None] & (offset < GROUP)[None, :] & (column < columns)
        x_ptrs = x_ptr + row[:, None] * stride_m + column * stride_k
        x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
        scale = quotient(tl.maximum(tl.max(tl.abs(x), 1), min_amax), largest)
        value = _stored(x, scale[:, None], largest, out_ptr.dtype.element_ty)
        tl.store(out_ptr + out_row[:, None] * columns + column, value, mask=mask)
        tl.store(scale_ptr + out_row * stride_sm + group * stride_sk, scale, mask=exists)


@triton.jit(do_not_specialize=["rows", "num_experts", "num_pairs"])
def partial_amax_kernel(
    x_ptr,
    partial_ptr,
    topk_ids_ptr,
    expert_map_ptr,
    sorted_token_ids_ptr,
    num_tokens_post_padded_ptr,
    num_experts,
    top_k,
    num_pairs,
    rows,
    columns,
    stride_m,
    stride_k,
    HAS_ROUTING: tl.constexpr,
    X_IS_SORTED: tl.constexpr,
    HAS_EXPERT_MAP: tl.constexpr,
    TOP_K: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    PARTIALS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the largest absolute value that each of PARTIALS programs finds in its share of x."""
    wait_for_previous(PROGRAMMATIC)
    amax = tl.zeros((BLOCK,), dtype=tl.float32)
    blocks_per_row = tl.cdiv(columns, BLOCK)
    if X_IS_SORTED:
        rows = tl.load(num_tokens_post_padded_ptr)
    for block in range(tl.program_id(0), rows * blocks_per_row, PARTIALS):
        row = (block // blocks_per_row).to(tl.int64)
        column = block % blocks_per_row * BLOCK + tl.arange(0, BLOCK)
        end = columns
        if X_IS_SORTED:
            pair = tl.load(sorted_token_ids_ptr + row)
            end = tl.where(pair < num_pairs, columns, 0)
        elif HAS_ROUTING:
            slot = tl.arange(0, TOP_K)
            local = local_expert(
                topk_ids_ptr,
                row * top_k + slot,
                slot < top_k,
                expert_map_ptr,
                num_experts,
                HAS_EXPERT_MAP,
            )
            end = tl.where(tl.max(local, 0) >= 0, columns, 0)
        x_ptrs = x_ptr + row * stride_m + column * stride_k
        x = tl.load(x_ptrs, mask=column < end, other=0.0)
        amax = tl.maximum(amax, tl.abs(x.to(tl.float32)))
    tl.store(partial_ptr + tl.program_id(0), tl.max(amax, 0))


@triton.jit
def quantize_tensor_kernel(
    x_ptr,
    out_ptr,
    partial_ptr,
    scale_ptr,
    numel,
    columns,
    stride_m,
    stride_k,
    min_amax,
    largest,
    DYNAMIC: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    PARTIALS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Quantize x over one scale: the one that is given or, DYNAMIC, of all partial maxima."""
    wait_for_previous(PROGRAMMATIC)
    if DYNAMIC:
        # Every program takes the same maximum of the same partial maxima.
        amax = tl.max(tl.load(partial_ptr + tl.arange(0, PARTIALS)), 0)
        scale = quotient(tl.maximum(amax, min_amax), largest)
        tl.store(scale_ptr, scale)
    else:
        scale = tl.load(scale_ptr)
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < numel
    x_ptrs = x_ptr + index // columns * stride_m + index % columns * stride_k
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    value = _stored(x, scale, largest, out_ptr.dtype.element_ty)
    tl.store(out_ptr + index, value, mask=mask)
