"""What the warpgroups of the GEMM on packed weights for Hopper do: one loads, others multiply.

See :mod:`moe_kernels.ops.fused_moe_gemm_quantized_hopper`. The tuples that functions are given:

- stages: of A (one per block), of the weight, of units of its scales, and of its zero points; the
  barriers of full stages and of empty ones.
- tiles: how many there are along both, sorted_token_ids, expert_ids, how many pairs, and how many
  of them a row of A has.
- operands: as the kernel names them, those that are loaded, or those that results take.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code=assignment

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.runtime.jit import constexpr_function

from moe_kernels.ops.activation import activate
from moe_kernels.ops.gemm_programs import sorted_tile, weight_rows
from moe_kernels.ops.gluon_names import load_rows
from moe_kernels.ops.hopper_stages import next_stage_of
from moe_kernels.ops.hopper_unpacking import (
    blocks_of_stage,
    load_units,
    units_of_stage,
    unpack_block,
    words_layout,
)
from moe_kernels.ops.unpack_weights import restored_sums

LOADING_WARPS = gl.constexpr(4)


@constexpr_function
def _rows_layout(columns, warps):
    """16 bytes a thread, of rows of 16-bit numbers."""
    across = min(32, columns // 8)
    return gl.BlockedLayout([1, 8], [32 // across, across], [warps, 1], [1, 0])


@gluon.jit
def _rows(index, tile_n, N, width, S: gl.constexpr):
    """:func:`moe_kernels.ops.gemm_programs.weight_rows`, with gates and ups apart always."""
    if S.interleaved:
        column = tile_n * (S.block_n // 2) + index // 16 * 8 + index % 8
        n = 2 * gl.where(column < width, column, index % 8) + index % 16 // 8
    else:
        n = weight_rows(index, tile_n, N, width, S)
    return n


@gluon.jit
def load_packed_tiles(stages, tiles, operands, S: gl.constexpr):
    """Fill the stages: rows of A by their pairs, words of the weight, scales, zero points."""
    a_stages, b_stages, scale_stages, zero_stages, full, empty = stages
    num_tiles_m, num_tiles_n, sorted_token_ids_ptr, expert_ids_ptr, num_pairs, top_k = tiles
    a_ptr, stride_am, K, b_ptr, stride_be, stride_bn, stored_columns = operands[:7]
    scale_ptr, zero_point_ptr, stride_bse, stride_bsg, num_units, N, width = operands[7:]
    WORDS: gl.constexpr = S.words * S.blocks
    A_LAYOUT: gl.constexpr = _rows_layout(S.block_k, LOADING_WARPS)
    B_LAYOUT: gl.constexpr = _rows_layout(WORDS, LOADING_WARPS)
    EACH: gl.constexpr = gl.BlockedLayout([1], [32], [LOADING_WARPS], [0])
    a_columns = gl.arange(0, S.block_k, gl.SliceLayout(0, A_LAYOUT))[None, :]
    b_columns = gl.arange(0, WORDS, gl.SliceLayout(0, B_LAYOUT))[None, :]
    stage = 0
    phase = 1
    for tile in range(gl.program_id(0), num_tiles_m * num_tiles_n, gl.num_programs(0)):
        tile_m, tile_n = sorted_tile(tile, num_tiles_m, num_tiles_n, S)
        expert = gl.load(expert_ids_ptr + tile_m).to(gl.int64)
        row = gl.arange(0, S.block_m, gl.SliceLayout(1, A_LAYOUT))
        pair = gl.load(sorted_token_ids_ptr + tile_m * S.block_m + row)
        a_mask = (pair < num_pairs)[:, None]
        a_ptrs = a_ptr + ((pair // top_k).to(gl.int64) * stride_am)[:, None] + a_columns
        b_expert = b_ptr + expert * stride_be
        scale_expert = scale_ptr + expert * stride_bse
        zero_expert = zero_point_ptr + expert * stride_bse
        n = _rows(gl.arange(0, S.block_n, gl.SliceLayout(1, B_LAYOUT)), tile_n, N, width, S)
        b_rows = (n * stride_bn)[:, None] + b_columns
        scale_rows = _rows(gl.arange(0, S.block_n, EACH), tile_n, N, width, S)
        for step in range(gl.cdiv(K, S.block_k * S.blocks)):
            mbarrier.wait(empty.index(stage), phase)
            b_ptrs = b_expert + step * WORDS + b_rows
            if S.mask_k:
                stored = b_columns + step * WORDS < stored_columns
                load_rows(b_stages.index(stage), b_ptrs, mask=stored)
            else:
                load_rows(b_stages.index(stage), b_ptrs)
            for i in gl.static_range(units_of_stage(S)):
                unit = step * (S.blocks * S.block_k) // (S.group * S.per_unit) + i
                if S.mask_k:
                    unit = gl.minimum(unit, num_units - 1)
                at = unit * stride_bsg + scale_rows
                load_rows(scale_stages.index(stage * units_of_stage(S) + i), scale_expert + at)
                if S.has_zero_point:
                    load_rows(zero_stages.index(stage * units_of_stage(S) + i), zero_expert + at)
            for block in gl.static_range(S.blocks):
                first = (step * S.blocks + block) * S.block_k
                mask = a_mask
                if S.mask_k:
                    mask = mask & (a_columns + first < K)
                load_rows(a_stages.index(stage * S.blocks + block), a_ptrs + first, mask=mask)
            async_copy.mbarrier_arrive(full.index(stage), increment_count=False)
            stage, phase = next_stage_of(stage, phase, S)


@gluon.jit
def multiply_packed_tiles(
    stages, tiles, operands, S: gl.constexpr, WARPS: gl.constexpr, HALVES: gl.constexpr
):
    """Unpack the weight, multiply, store; in half the time where half of the rows are empty."""
    num_tiles_m, num_tiles_n, sorted_token_ids_ptr, expert_ids_ptr, num_pairs, _ = tiles
    HALF: gl.constexpr = S.block_m // 2
    at = (0, 0)
    for tile in range(gl.program_id(0), num_tiles_m * num_tiles_n, gl.num_programs(0)):
        tile_m, tile_n = sorted_tile(tile, num_tiles_m, num_tiles_n, S)
        expert = gl.load(expert_ids_ptr + tile_m).to(gl.int64)
        pairs_ptr = sorted_token_ids_ptr + tile_m * S.block_m
        pairs = (pairs_ptr, num_pairs)
        place = (expert, tile_n)
        if HALVES:
            if gl.load(pairs_ptr + HALF) >= num_pairs:
                at = _compute_rows(at, stages, pairs, place, operands, S, WARPS, HALF)
            else:
                at = _compute_rows(at, stages, pairs, place, operands, S, WARPS, S.block_m)
        else:
            at = _compute_rows(at, stages, pairs, place, operands, S, WARPS, S.block_m)


@gluon.jit
def _compute_rows(
    at, stages, pairs, place, operands, S: gl.constexpr, WARPS: gl.constexpr, ROWS: gl.constexpr
):
    """Compute and store the first ROWS rows of a tile.

    at: the stage that is next, and the phase of its barriers. Returns them.
    """
    a_stages, _, _, _, full, empty = stages
    expert, tile_n = place
    K, a_scale_ptr, row_scale_ptr, stride_rse, stride_rsn, bias_ptr, N = operands[:7]
    out_ptr, width, parameters = operands[7:]
    MMA: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, ROWS, 16])
    LEFT: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    stage, phase = at
    released = stage + 0  # a number of its own: Triton does not carry an alias through the loop
    sums = gl.zeros((S.block_n, ROWS), gl.float32, MMA)
    multiplied = gl.zeros((S.block_n, S.block_k), gl.bfloat16, LEFT)
    for step in range(gl.cdiv(K, S.block_k * S.blocks)):
        mbarrier.wait(full.index(stage), phase)
        fence_async_shared()  # rows of A were not written by the copy engine
        words, units, zero_units = _words_of_stage(stages, stage, S, WARPS)
        for block in gl.static_range(S.blocks):
            # In the meantime, the matrix units work on the block before. What is unpacked is begun
            # before that is waited for, since ptxas would unpack after the wait.
            weight = unpack_block(
                words[block], units, zero_units, step, block * S.block_k, S, WARPS
            )
            weight = gl.convert_layout(weight, LEFT, assert_trivial=True)
            a = a_stages.index(stage * S.blocks + block).slice(0, ROWS).permute((1, 0))
            sums = warpgroup_mma(weight, a, sums, is_async=True)
            sums = warpgroup_mma_wait(1, deps=(sums, multiplied))[0]
            multiplied = weight
            if block == 0:
                mbarrier.arrive(empty.index(released), count=1, pred=step > 0)
        released = stage + 0
        stage, phase = next_stage_of(stage, phase, S)
    sums = warpgroup_mma_wait(0, deps=(sums, multiplied))[0]
    mbarrier.arrive(empty.index(released), count=1)

    n = _rows(gl.arange(0, S.block_n, gl.SliceLayout(1, MMA)), tile_n, N, width, S)
    if S.has_a_scale:
        sums *= gl.load(a_scale_ptr)
    sums = restored_sums(sums, S.format)
    if S.has_row_scale:
        sums *= gl.load(row_scale_ptr + expert * stride_rse + n * stride_rsn)[:, None]
    if S.has_bias:
        sums += gl.load(bias_ptr + expert * N + n).to(gl.float32)[:, None]
    _store(sums, pairs, tile_n, out_ptr, width, parameters, S, WARPS, ROWS)
    return stage, phase


@gluon.jit
def _words_of_stage(stages, stage, S: gl.constexpr, WARPS: gl.constexpr):
    """The words of each block of a stage, the units of its scales, and of its zero points."""
    _, b_stages, scale_stages, zero_stages, _, _ = stages
    WORDS: gl.constexpr = words_layout(S.block_n, S.words * S.blocks, WARPS)
    SCALES: gl.constexpr = gl.SliceLayout(1, words_layout(S.block_n, 16, WARPS))
    words = blocks_of_stage(b_stages.index(stage).load(WORDS), S)
    units = load_units(scale_stages, stage, SCALES, S)
    zero_units = ()
    if S.has_zero_point:
        zero_units = load_units(zero_stages, stage, SCALES, S)
    return words, units, zero_units


@gluon.jit
def _store(
    sums,
    pairs,
    tile_n,
    out_ptr,
    width,
    parameters,
    S: gl.constexpr,
    WARPS: gl.constexpr,
    ROWS: gl.constexpr,
):
    """Store sums [rows of the weight, ROWS pairs], through the activation if there is one."""
    pairs_ptr, num_pairs = pairs
    COLUMNS: gl.constexpr = sums.shape[0] // 2 if S.gated else sums.shape[0]
    value = sums
    if S.form != "":
        sums = sums.to(out_ptr.dtype.element_ty).to(gl.float32)
        gate = sums
        up = sums
        if S.gated:
            halves = gl.reshape(sums, (COLUMNS // 8, 2, 8, ROWS))
            gate, up = gl.split(gl.permute(halves, (0, 2, 3, 1)))
            gate = gl.reshape(gate, (COLUMNS, ROWS))
            up = gl.reshape(up, (COLUMNS, ROWS))
        value = activate(gate, up, parameters, S)
    LAYOUT: gl.constexpr = _rows_layout(COLUMNS, WARPS)
    value = gl.permute(value.to(out_ptr.dtype.element_ty), (1, 0))
    pair = gl.load(pairs_ptr + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT)))
    column = tile_n * COLUMNS + gl.arange(0, COLUMNS, gl.SliceLayout(0, LAYOUT))
    gl.store(
        out_ptr + (pair.to(gl.int64) * width)[:, None] + column[None, :],
        gl.convert_layout(value, LAYOUT),
        mask=(pair < num_pairs)[:, None] & (column < width)[None, :],
    )
