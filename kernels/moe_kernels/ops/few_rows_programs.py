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

from moe_kernels.ops.few_rows_results import store, store_of_one
from moe_kernels.ops.few_rows_tokens import (
    LOWERED,
    ROWS,
    code_of_one,
    columns_of_lane,
    load_tokens,
    pair_of_tokens,
    pointers_of_part,
    products_of_chunk,
    quantized_tokens,
    tokens_in_shared,
    tokens_of_rows,
    tokens_of_turn,
)
from moe_kernels.ops.few_rows_weights import (
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
from moe_kernels.ops.programmatic_launch import let_next_start, wait_for_previous
from moe_kernels.ops.routing import local_expert, local_experts, pair_of_rank, pairs_of_slot
from moe_kernels.ops.unpack_weights import restored_sums


@gluon.jit
def _products(
    turn, sums, loaded, tokens, sum_of_tokens, units, zero_units, scales, S: gl.constexpr
):
    """Both ``sums``, and the products of each warp's chunk.

    Two, since a product that adds to the one before waits for it. ``sum_of_tokens``: over the
    chunk, of a single token with ``S.scale_sums``.
    """
    mma: gl.constexpr = sums[0].type.layout
    COLUMNS: gl.constexpr = columns_of_lane(S)
    left: gl.constexpr = gl.DotOperandLayout(0, mma, COLUMNS)
    right: gl.constexpr = gl.DotOperandLayout(1, mma, COLUMNS)
    numbers = numbers_of_chunk(turn, loaded, units, zero_units, scales, S)
    of_tokens = sums
    ADDS_TOKENS: gl.constexpr = S.scale_sums and not S.in_shared
    if ADDS_TOKENS:
        ones = gl.full((S.warps, S.block_n, 4 * COLUMNS), 1, gl.int16, left)
    for product in gl.static_range(products_of_chunk(S)):
        a = tokens[product].to(S.dtype)
        if S.in_shared:
            a, _ = gl.broadcast(a, gl.full((1, 1, ROWS), 0, S.dtype, a.type.layout))
        a = gl.convert_layout(a, right, assert_trivial=True)
        b = gl.convert_layout(numbers[product], left, assert_trivial=True)
        sums = (sums[1], mma_v2(b, a, sums[0]))
        if ADDS_TOKENS:
            one = (ones * code_of_one(product, S)).to(S.dtype, bitcast=True)
            of_tokens = (of_tokens[1], mma_v2(one, a, of_tokens[0]))
    if S.scale_sums:
        scale, zero_point = scales_of_chunk(turn, loaded, units, zero_units, scales, S)
        if ADDS_TOKENS:
            sum_of_tokens = of_tokens[0] + of_tokens[1]
        sums = (sums[0] + sums[1] - sum_of_tokens * zero_point) * scale, sums[0]
    return sums


@gluon.jit
def _factor_and_bias(place, pair, factors, bias_ptr, routing, S: gl.constexpr):
    """What sums are to be multiplied by, and then to be added, as far as it is known before A is.

    [warps, N, 1], or numbers; and which warps have an expert. A bias is for the first warp of each
    pair. pair: the first.
    """
    topk_weights_ptr = factors[0]
    b_scale_ptr, stride_bse, stride_bsn, _, row_scale_ptr, stride_rse, stride_rsn = factors[4:]
    mma: gl.constexpr = sums_layout(S.warps)
    expert, exists = expert_of_warps(place[0], routing, S)
    n = rows_of_tile(place, S)[None, :, None]
    first = gl.arange(0, S.warps)[:, None, None] < S.pairs_at_once
    factor = 1.0
    bias = 0.0
    if S.has_row_scale:
        pointers = row_scale_ptr + expert * stride_rse + n * stride_rsn
        factor = gl.load(gl.set_auto_layout(pointers, mma)) * factor
    if S.scales == "outer":
        pointers = b_scale_ptr + expert * stride_bse + n * stride_bsn
        factor = gl.load(gl.set_auto_layout(pointers, mma)) * factor
    if S.has_bias:
        pointers = gl.set_auto_layout(bias_ptr + expert * place[2] + n, mma)
        bias = gl.load(pointers, mask=first & exists, other=0.0).to(gl.float32)
    if S.has_topk_weights:
        pointers = gl.set_auto_layout(topk_weights_ptr + pair + pair_of_warps(S), mma)
        weight = gl.load(pointers, mask=exists, other=0.0).to(gl.float32)
        factor = weight * factor
        bias = weight * bias
    return factor, bias, exists


@gluon.jit
def _scaled(sums, factor, row_scale, rows, exists, factors, S: gl.constexpr):
    """``sums`` times ``factor`` and what A is scaled by, but for what is in them."""
    _, a_scale_ptr, stride_asm, _ = factors[:4]
    if S.quantizes == "token":
        sums = sums * gl.convert_layout(row_scale, sums.type.layout)
    elif S.scales == "outer":
        row = rows[None, None, :] + pair_of_tokens(S)
        sums = sums * gl.load(a_scale_ptr + row * stride_asm)
    elif S.has_a_scale:
        sums = sums * gl.load(a_scale_ptr)
    sums = sums * factor
    if S.scale_sums:
        sums = sums * LOWERED
    elif S.packed_arithmetic:
        sums = restored_sums(sums, S.format)
    if S.summed != 0:
        sums = gl.where(exists, sums, 0.0)
    return sums


@gluon.jit
def _tile(routing, sorted_pairs, num_pairs, N, S: gl.constexpr):
    """(tile_n, slot, expert, how many rows, [pairs] their ranks) of this program.

    No rows: there is nothing to do. Ranks: as :func:`moe_kernels.ops.routing.pairs_of_slot` has
    them, 0 where they are not needed. With ``S.in_turn``, rows are a token's local pairs, and
    ``expert`` is a tuple of all pairs' experts.
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
    elif S.in_turn:
        expert, num_rows = local_experts(
            topk_ids_ptr, num_pairs, expert_map_ptr, num_experts, S.has_expert_map, S.pairs
        )
    elif S.single:
        expert = local_expert(
            topk_ids_ptr, slot, slot >= 0, expert_map_ptr, num_experts, S.has_expert_map
        )
        num_rows = (expert >= 0).to(gl.int32)
        expert = gl.maximum(expert, 0)
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
    return tile_n, slot, expert, num_rows, ranks


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


@gluon.jit
def _rotated(items, last):
    """``items`` without the first, and then ``last``."""
    result = ()
    for i in gl.static_range(1, len(items)):
        result = result + (items[i],)  # noqa: RUF005
    return result + (last,)  # noqa: RUF005


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
    if S.routing_is_older:
        let_next_start(S.programmatic)
    else:
        wait_for_previous(S.programmatic)
    # What there is not is another pointer: tuples hold no None.
    routing = (b_ptr if S.sorted else topk_ids_ptr, b_ptr, num_experts)
    sorted_pairs = (b_ptr, b_ptr, b_ptr)
    if S.has_expert_map:
        routing = (topk_ids_ptr, expert_map_ptr, num_experts)
    if S.sorted:
        sorted_pairs = (sorted_token_ids_ptr, expert_ids_ptr, num_tokens_post_padded_ptr)
    tile_n, slot, experts, num_rows, ranks = _tile(routing, sorted_pairs, num_pairs, N, S)
    # A branch here would let all that is worked out before weights are loaded wait for the routing.
    OF_ONE: gl.constexpr = S.single or S.summed != 0
    ONE: gl.constexpr = OF_ONE and not S.has_expert_map
    if not (S.adds_up or ONE) and num_rows == 0:
        if S.routing_is_older and gl.program_id(0) == 0:
            wait_for_previous(S.programmatic)  # one program's waiting is the kernel's
        return
    factors = (
        topk_weights_ptr if S.has_topk_weights else a_ptr,
        a_ptr if a_scale_ptr is None else a_scale_ptr,
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
    bias_ptr = bias_ptr if S.has_bias else a_ptr
    CHUNKS: gl.constexpr = (S.columns + S.block_k - 1) // S.block_k
    WARPS: gl.constexpr = S.warps // S.pairs_at_once
    TURNS: gl.constexpr = (CHUNKS + WARPS - 1) // WARPS
    WITHIN: gl.constexpr = S.scales == "block" or S.scale_sums
    mma: gl.constexpr = sums_layout(S.warps)
    by_row: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, mma))
    zeros = gl.zeros((S.warps, S.block_n, ROWS), gl.float32, mma)
    all_sums = zeros
    first = slot if S.in_turn else 0
    step = gl.num_programs(1) if S.in_turn else ROWS
    for start in range(first, 1 if ONE else num_rows, step):
        first_pair = slot
        expert = experts
        if S.in_turn:
            first_pair, expert = pair_of_rank(start, experts)
        place = (expert.to(gl.int64), tile_n, N, width)
        weights = weights_of_warps(place, (b_ptr, stride_be, stride_bn), routing, S)
        scales = (stride_bse, stride_bsn if S.scales == "block" else 1, stride_bsk, num_groups)
        units = weights
        zero_units = weights
        if S.format != "" or S.scales == "block":
            units = units_of_warps(b_scale_ptr, place, scales, routing, S)
        if S.has_zero_point:
            zero_units = units_of_warps(zero_point_ptr, place, scales, routing, S)
        factor, bias, exists = _factor_and_bias(place, first_pair, factors, bias_ptr, routing, S)
        loaded = ()
        for i in gl.static_range(S.stages):
            loaded = loaded + (load_chunk(i, weights, units, zero_units, scales, S),)  # noqa: RUF005
        row = (first_pair // top_k).to(gl.int64)
        first_part = 0
        if S.in_shared:  # addresses are there when tokens are
            first_part = pointers_of_part(0, row, a_ptr, stride_am, stride_ak, S)
        if S.routing_is_older:
            wait_for_previous(S.programmatic)
        elif S.in_shared:
            tl.debug_barrier()  # or ptxas lets tokens, which are waited for first, come first
        if OF_ONE:
            rows = gl.full((ROWS,), row, gl.int64, by_row)
        else:
            pair, count = _pairs(start, slot, num_rows, ranks, sorted_pairs[0], num_pairs, S)
            pair = gl.convert_layout(pair, by_row)
            rows = (pair // top_k).to(gl.int64)
        if S.in_shared:
            tokens = tokens_in_shared(
                first_part, row, a_ptr, stride_am, stride_ak, *factors[1:4], S
            )
        else:
            tokens = tokens_of_rows(rows, a_ptr, stride_am, stride_ak, *factors[1:3], S)
            a = load_tokens(0, tokens, stride_ak, stride_ask, S)
        sums = (zeros, zeros)
        for begin in range(0, TURNS, S.unrolled):
            for i in gl.static_range(S.unrolled):
                turn = begin + i
                next_a = 0
                if S.in_shared:
                    a, a_scale = tokens_of_turn(gl.minimum(turn, TURNS - 1), tokens, S)
                else:
                    next_a = load_tokens(
                        gl.minimum(turn + 1, TURNS - 1), tokens, stride_ak, stride_ask, S
                    )
                    a, a_scale = quantized_tokens(a, S)
                chunk = loaded[0]
                before = (zeros, zeros) if WITHIN else sums
                part = _products(turn, before, chunk, a, a_scale, units, zero_units, scales, S)
                if S.scales == "block":
                    part = (part[0] + part[1]) * (a_scale * chunk[2]), zeros
                sums = (sums[0] + part[0], zeros) if WITHIN else part
                if S.unrolled < TURNS or i + S.stages < TURNS:
                    chunk = load_chunk(turn + S.stages, weights, units, zero_units, scales, S)
                loaded = _rotated(loaded, chunk)
                a = next_a
        sums = sums[0] + sums[1]
        sums = _scaled(sums, factor, tokens[1], rows, exists, factors, S) + bias
        if S.adds_up:
            all_sums += sums
        elif OF_ONE:
            store_of_one(sums, first_pair, num_rows > 0, place, result, S)
        else:
            store(gl.sum(sums, 0), pair, count, place, result, S)
    if S.adds_up:
        wait_for_previous(S.programmatic)
        store_of_one(all_sums, 0, True, (0, tile_n, N, width), result, S)
