"""The programs of the grouped GEMM for few rows per expert, where reading the weights is all.

A program has some rows of the weight, all of their columns, and 8 rows of A. Its warps take turns
over chunks of the columns (:mod:`moe_kernels.ops.few_rows_weights`), load several of them ahead,
and meet once, to add up what each of them has.

The second GEMM of a single token has all of the token's experts in one program: their columns are
one long row then, and the result is the layer's.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment,misc"

from __future__ import annotations

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

from moe_kernels.ops.activation import activate
from moe_kernels.ops.few_rows_weights import (
    chunk_of_warps,
    exists_in_turn,
    expert_of_warps,
    load_chunk,
    numbers_of_chunk,
    pair_of_warps,
    rows_of_tile,
    scales_of_chunk,
    sums_layout,
    units_of_warps,
    weights_of_warps,
)
from moe_kernels.ops.programmatic_launch import wait_for_previous
from moe_kernels.ops.routing import local_expert, pairs_of_slot
from moe_kernels.ops.unpack_weights import restored_sums
from moe_kernels.tiling.tile_config import FEW_ROWS

ROWS = tl.constexpr(FEW_ROWS)
"""Of A, in a program; what the matrix units take on the right."""


@gluon.jit
def _tokens_of_warps(rows, a_ptr, stride_am, stride_ak, place, routing, S: gl.constexpr):
    """Pointers to what A has for each warp's first chunk, or for its first run.

    [warps, columns of a product, ROWS]; and which warps have any.
    """
    COLUMNS: gl.constexpr = 8 if S.words else S.block_k // 4
    layout: gl.constexpr = gl.BlockedLayout([1, COLUMNS, 1], [1, 4, 8], [S.warps, 1, 1], [1, 2, 0])
    _, exists = expert_of_warps(place[0], routing, S)
    k = gl.arange(0, 4 * COLUMNS)[None, :, None]
    if S.words:
        k = k // 16 * 64 + k % 16
    k += chunk_of_warps(0, S).to(gl.int32) * S.block_k
    row = gl.convert_layout(rows, gl.SliceLayout(0, gl.SliceLayout(1, layout)))[None, None, :]
    return a_ptr + (row + pair_of_warps(S)) * stride_am + k * stride_ak, exists


@gluon.jit
def _load_tokens(run: gl.constexpr, turn, tokens, stride_ak, S: gl.constexpr):
    """A's columns of a product."""
    pointers, exists = tokens
    pointers += (turn * (S.warps // S.pairs_at_once * S.block_k) + 16 * run) * stride_ak
    if S.whole and S.summed == 0:
        a = gl.load(pointers)
    else:
        mask = exists_in_turn(turn, exists, S)
        if not S.whole:
            k = gl.arange(0, pointers.shape[1])[None, :, None]
            if S.words:
                k = k // 16 * 64 + k % 16 + 16 * run
            mask = mask & (chunk_of_warps(turn, S).to(gl.int32) * S.block_k + k < S.columns)
        a = gl.load(pointers, mask=mask, other=0.0)
    return a.to(S.dtype)


@gluon.jit
def _products(turn, sums, loaded, tokens, stride_ak, units, zero_units, scales, S: gl.constexpr):
    """``sums`` and the products of each warp's chunk."""
    mma: gl.constexpr = sums.type.layout
    COLUMNS: gl.constexpr = 8 if S.words else S.block_k // 4
    left: gl.constexpr = gl.DotOperandLayout(0, mma, COLUMNS)
    right: gl.constexpr = gl.DotOperandLayout(1, mma, COLUMNS)
    numbers = numbers_of_chunk(turn, loaded, units, zero_units, scales, S)
    of_tokens = sums
    if S.scale_sums:
        of_tokens = gl.zeros(sums.shape, gl.float32, mma)
        ones = gl.full((sums.shape[0], sums.shape[1], 4 * COLUMNS), 1.0, S.dtype, left)
    for run in gl.static_range(4 if S.words else 1):
        a = _load_tokens(run, turn, tokens, stride_ak, S)
        a = gl.convert_layout(a, right, assert_trivial=True)
        sums = mma_v2(gl.convert_layout(numbers[run], left, assert_trivial=True), a, sums)
        if S.scale_sums:
            of_tokens = mma_v2(ones, a, of_tokens)
    if S.scale_sums:
        scale, zero_point = scales_of_chunk(turn, loaded, units, zero_units, scales, S)
        sums = (sums - of_tokens * zero_point) * scale
    return sums


@gluon.jit
def _block_scale(turn, rows, place, factors, routing, S: gl.constexpr):
    """The scales of each warp's chunk, of A and of the weight."""
    _, a_scale_ptr, stride_asm, stride_ask = factors[:4]
    b_scale_ptr, stride_bse, stride_bsn, stride_bsk = factors[4:8]
    expert, exists = expert_of_warps(place[0], routing, S)
    exists = exists_in_turn(turn, exists, S)
    n = rows_of_tile(place, S)[None, :, None]
    row = rows[None, None, :] + pair_of_warps(S)
    group = (chunk_of_warps(turn, S) * S.block_k // S.group_k).to(gl.int32)
    a_scale = a_scale_ptr + row * stride_asm + group * stride_ask
    b_scale = b_scale_ptr + expert * stride_bse + n // S.group_n * stride_bsn + group * stride_bsk
    return gl.load(a_scale, mask=exists, other=0.0) * gl.load(b_scale, mask=exists, other=0.0)


@gluon.jit
def _pair_factor(sums, rows, place, factors, routing, S: gl.constexpr):
    """``sums`` of pairs that are summed, times what each pair has of its own."""
    topk_weights_ptr, a_scale_ptr, stride_asm, _ = factors[:4]
    b_scale_ptr, stride_bse, stride_bsn, _, row_scale_ptr, stride_rse, stride_rsn = factors[4:]
    expert, exists = expert_of_warps(place[0], routing, S)
    n = rows_of_tile(place, S)[None, :, None]
    pair = pair_of_warps(S)
    if S.has_topk_weights:
        sums *= gl.load(topk_weights_ptr + pair, mask=exists, other=0.0).to(gl.float32)
    if S.has_row_scale:
        sums *= gl.load(row_scale_ptr + expert * stride_rse + n * stride_rsn)
    if S.scales == "outer":
        row = rows[None, None, :] + pair
        sums *= gl.load(a_scale_ptr + row * stride_asm, mask=exists, other=0.0)
        sums *= gl.load(b_scale_ptr + expert * stride_bse + n * stride_bsn)
    return sums


@gluon.jit
def _finish(total, rows, place, factors, bias_ptr, routing, S: gl.constexpr):
    """``total`` [N, ROWS] with the scales that hold for all columns, and the bias."""
    topk_weights_ptr, a_scale_ptr, stride_asm, _ = factors[:4]
    b_scale_ptr, stride_bse, stride_bsn, _, row_scale_ptr, stride_rse, stride_rsn = factors[4:]
    topk_ids_ptr, expert_map_ptr, num_experts = routing
    expert, _, N, _ = place
    n = gl.set_auto_layout(rows_of_tile(place, S), gl.SliceLayout(1, total.type.layout))
    if S.has_a_scale:
        total *= gl.load(a_scale_ptr)
    if S.packed_arithmetic and not S.scale_sums:
        total = restored_sums(total, S.format)
    if S.summed == 0:
        if S.scales == "outer":
            row = gl.convert_layout(rows, gl.SliceLayout(0, total.type.layout))
            total *= gl.load(a_scale_ptr + row * stride_asm)[None, :]
            total *= gl.load(b_scale_ptr + expert * stride_bse + n * stride_bsn)[:, None]
        if S.has_row_scale:
            total *= gl.load(row_scale_ptr + expert * stride_rse + n * stride_rsn)[:, None]
        if S.has_bias:
            total += gl.load(bias_ptr + expert * N + n).to(gl.float32)[:, None]
    elif S.has_bias:
        for pair in range(S.summed):
            local = local_expert(
                topk_ids_ptr, pair, pair >= 0, expert_map_ptr, num_experts, S.has_expert_map
            )
            if local >= 0:
                bias = gl.load(bias_ptr + local.to(gl.int64) * N + n).to(gl.float32)
                if S.has_topk_weights:
                    bias *= gl.load(topk_weights_ptr + pair).to(gl.float32)
                total += bias[:, None]
    return total


@gluon.jit
def _store(total, pair, num_rows, place, result, S: gl.constexpr):
    """Store ``total`` [N, ROWS], through the activation if there is one, for ``pair`` [ROWS]."""
    out_ptr, parameters = result
    _, tile_n, _, width = place
    PART_N: gl.constexpr = S.block_n // 2 if S.gated else S.block_n
    if S.form != "":
        if S.quantized:
            total = total.to(out_ptr.dtype.element_ty).to(gl.float32)
        gate = total
        up = total
        if S.gated:
            both = gl.permute(gl.reshape(total, (PART_N // 8, 2, 8, ROWS)), (0, 2, 3, 1))
            gate, up = gl.split(both)
        total = activate(gate, up, parameters, S)
        total = gl.reshape(total, (PART_N, ROWS))
    layout: gl.constexpr = gl.BlockedLayout([1, 1], [8, 4], [S.warps, 1], [0, 1])
    total = gl.convert_layout(total.to(out_ptr.dtype.element_ty), layout)
    column = (tile_n * PART_N + gl.arange(0, PART_N))[:, None]
    pair = gl.convert_layout(pair, gl.SliceLayout(0, layout))[None, :].to(gl.int64)
    mask = (gl.arange(0, ROWS)[None, :] < num_rows) & (column < width)
    gl.store(out_ptr + pair * width + column, total, mask=mask)


@gluon.jit
def _tile(routing, sorted_pairs, num_pairs, N, S: gl.constexpr):
    """(tile_n, slot, expert, how many rows, [pairs] their ranks) of this program.

    No rows: there is nothing to do. Ranks: as :func:`moe_kernels.ops.routing.pairs_of_slot` has
    them, 0 where they are not needed.
    """
    topk_ids_ptr, expert_map_ptr, num_experts = routing
    _, expert_ids_ptr, num_tokens_post_padded_ptr = sorted_pairs
    tile_n = gl.program_id(0)
    slot = gl.program_id(1)
    expert = slot  # of a sum over experts it is not used
    num_rows = 1
    ranks = 0
    if S.sorted:
        num_tiles_n = gl.cdiv(N, S.block_n)
        slot = tile_n // num_tiles_n
        tile_n = tile_n % num_tiles_n
        exists = slot * ROWS < gl.load(num_tokens_post_padded_ptr)
        expert = gl.load(expert_ids_ptr + slot, mask=exists, other=0)
        num_rows = exists.to(gl.int32) * ROWS
    elif S.single:
        expert = local_expert(
            topk_ids_ptr, slot, slot >= 0, expert_map_ptr, num_experts, S.has_expert_map
        )
        num_rows = (expert >= 0).to(gl.int32)
    elif S.summed == 0:
        expert, num_rows, ranks = pairs_of_slot(
            slot,
            gl.arange(0, S.pairs, gl.BlockedLayout([1], [32], [S.warps], [0])),
            topk_ids_ptr,
            num_pairs,
            expert_map_ptr,
            num_experts,
            S.has_expert_map,
            S.slots_are_experts,
            S.pairs,
        )
    return tile_n, slot, expert.to(gl.int64), num_rows, ranks


@gluon.jit
def _pairs(start, slot, num_rows, ranks, sorted_token_ids_ptr, num_pairs, S: gl.constexpr):
    """The pairs [ROWS] of the rows from ``start`` on, and how many there are."""
    layout: gl.constexpr = gl.BlockedLayout([1, 1], [1, 32], [S.warps, 1], [1, 0])
    row = start + gl.arange(0, ROWS, gl.SliceLayout(1, layout))
    count = num_rows - start
    if S.sorted:
        pair = gl.load(sorted_token_ids_ptr + slot * ROWS + row)
        count = gl.sum((pair < num_pairs).to(gl.int32), 0)
        pair = gl.minimum(pair, num_pairs - 1)
    else:
        ranks = gl.convert_layout(ranks, gl.SliceLayout(0, layout))
        index = gl.arange(0, S.pairs, gl.SliceLayout(0, layout))
        pair = gl.sum(gl.where(ranks[None, :] == row[:, None], index[None, :], 0), 1)
    return pair, count


@gluon.jit(do_not_specialize=["num_pairs", "num_experts"])
def few_rows_kernel(
    a_ptr,
    b_ptr,
    out_ptr,
    a_scale_ptr,
    b_scale_ptr,
    zero_point_ptr,
    row_scale_ptr,
    bias_ptr,
    topk_weights_ptr,
    sorted_token_ids_ptr,
    expert_ids_ptr,
    num_tokens_post_padded_ptr,
    topk_ids_ptr,
    expert_map_ptr,
    num_experts,
    N,
    width,
    num_groups,
    num_pairs,
    top_k,
    stride_am,
    stride_ak,
    stride_asm,
    stride_ask,
    stride_be,
    stride_bn,
    stride_bse,
    stride_bsn,
    stride_bsk,
    stride_rse,
    stride_rsn,
    limit,
    alpha,
    beta,
    situ_beta,
    situ_linear_beta,
    S: gl.constexpr,
):
    """One program: a tile of the rows of one expert's weight, for all rows of A that go there.

    Strides of the weight are in units of 16 bytes.
    """
    if S.form != "":
        wait_for_previous(S.programmatic)
    # What there is not is another pointer: tuples hold no None.
    routing = (b_ptr if S.sorted else topk_ids_ptr, b_ptr, num_experts)
    sorted_pairs = (b_ptr, b_ptr, b_ptr)
    if S.has_expert_map:
        routing = (topk_ids_ptr, expert_map_ptr, num_experts)
    if S.sorted:
        sorted_pairs = (sorted_token_ids_ptr, expert_ids_ptr, num_tokens_post_padded_ptr)
    tile_n, slot, expert, num_rows, ranks = _tile(routing, sorted_pairs, num_pairs, N, S)
    if num_rows == 0:
        return
    factors = (
        topk_weights_ptr if S.has_topk_weights else a_ptr,
        a_scale_ptr if S.has_a_scale or S.scales != "none" else a_ptr,
        stride_asm,
        stride_ask,
        b_scale_ptr if S.scales != "none" else b_ptr,
        stride_bse,
        stride_bsn,
        stride_bsk,
        row_scale_ptr if S.has_row_scale else a_ptr,
        stride_rse,
        stride_rsn,
    )
    parameters = (limit, alpha, beta, situ_beta, situ_linear_beta)
    result = (out_ptr, parameters)
    place = (expert, tile_n, N, width)
    bias = bias_ptr if S.has_bias else a_ptr
    CHUNKS: gl.constexpr = (S.columns + S.block_k - 1) // S.block_k
    WARPS: gl.constexpr = S.warps // S.pairs_at_once
    TURNS: gl.constexpr = (CHUNKS + WARPS - 1) // WARPS
    WITHIN: gl.constexpr = S.scales == "block" or S.scale_sums
    mma: gl.constexpr = sums_layout(S.warps)
    by_row: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, mma))
    zeros = gl.zeros((S.warps, S.block_n, ROWS), gl.float32, mma)
    weights = weights_of_warps(place, (b_ptr, stride_be, stride_bn), routing, S)
    scales = (stride_bse, stride_bsk, num_groups)
    units = weights
    zero_units = weights
    if S.format != "":
        units = units_of_warps(b_scale_ptr, place, scales, routing, S)
    if S.has_zero_point:
        zero_units = units_of_warps(zero_point_ptr, place, scales, routing, S)
    for start in range(0, num_rows, ROWS):
        loaded = ()
        for i in gl.static_range(S.stages):
            loaded = loaded + (load_chunk(i, weights, units, zero_units, scales, S),)  # noqa: RUF005
        if S.form == "":
            wait_for_previous(S.programmatic)
        if S.single or S.summed != 0:
            pair = gl.full((ROWS,), slot, gl.int32, by_row)
            rows = gl.zeros((ROWS,), gl.int64, by_row)
            count = 1
        else:
            pair, count = _pairs(start, slot, num_rows, ranks, sorted_pairs[0], num_pairs, S)
            pair = gl.convert_layout(pair, by_row)
            rows = (pair // top_k).to(gl.int64)
        tokens = _tokens_of_warps(rows, a_ptr, stride_am, stride_ak, place, routing, S)
        sums = zeros
        for turn in range(0, TURNS, S.stages):
            following = ()
            for i in gl.static_range(S.stages):
                following = following + (  # noqa: RUF005
                    load_chunk(turn + S.stages + i, weights, units, zero_units, scales, S),
                )
            for i in gl.static_range(S.stages):
                part = _products(
                    turn + i,
                    zeros if WITHIN else sums,
                    loaded[i],
                    tokens,
                    stride_ak,
                    units,
                    zero_units,
                    scales,
                    S,
                )
                if S.scales == "block":
                    part = part * _block_scale(turn + i, rows, place, factors, routing, S)
                sums = sums + part if WITHIN else part
            loaded = following
        if S.summed != 0:
            sums = _pair_factor(sums, rows, place, factors, routing, S)
        total = _finish(gl.sum(sums, 0), rows, place, factors, bias, routing, S)
        _store(total, pair, count, place, result, S)
