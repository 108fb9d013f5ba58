"""What the warpgroups of the GEMM for Hopper do: one loads tiles, two multiply and store them.

See :mod:`moe_kernels.ops.fused_moe_gemm_hopper`. The tuples that functions here are given:

- buffers: of A (two per stage, of 64 rows), of the weight, of scales of A, the barriers of full
  stages and of empty ones, and, where a tile begins, of what was looked up of it.
- routing: sorted_token_ids, expert_ids, how many tiles there are along both, how many pairs, how
  many of them a row of A has, how many tiles are taken, how many rows the weight has, and
  blocks_of_expert.
- operands: as the kernel names them; where A is sorted, descriptors of A, and of its scales in
  blocks, instead of pointers.
- result: out_ptr, the width, the activation's parameters, a tuple, and a buffer of each warpgroup.
  Where TMA stores it, from there, a descriptor instead of the pointer.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from dataclasses import dataclass

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import async_copy, mbarrier, tma

from moe_kernels.ops.gemm_programs import Settings
from moe_kernels.ops.gluon_names import load_rows, load_tile
from moe_kernels.ops.hopper_results import activated, scaled, store_rows
from moe_kernels.ops.hopper_stages import next_stage_of
from moe_kernels.ops.hopper_sums import scales_of_stage, sums_of_16_bits, sums_of_tile
from moe_kernels.ops.hopper_tiles import count_tiles, looked_up, take_tile, tell, told


@dataclass(frozen=True, eq=False)
class HopperSettings(Settings):
    """What the kernel is compiled for."""

    scales: str
    """How they are applied: "none" (there are none), "outer" (after sums) or "block" (within)."""
    group_n: int
    group_k: int
    one_b_scale: bool
    """Whether "outer" has one scale for all rows of an expert's weight."""
    a_is_sorted: bool
    """Whether A has a row for each of the sorted pairs, padding as well: then TMA loads them."""
    out_is_sorted: bool
    """Whether the result has."""
    b_is_transposed: bool
    """Whether the weight lies as [E, K, N]."""

    @property
    def halves_tiles(self) -> gl.constexpr:
        """Whether a tile may be computed as two halves, with 128 rows of the weight each."""
        return gl.constexpr(not (bool(self.split) or bool(self.b_is_transposed)))

    @property
    def stores_by_tma(self) -> gl.constexpr:
        """Whether the result is: its rows are sorted, and threads have neighbours in a row."""
        return gl.constexpr(bool(self.out_is_sorted) and not bool(self.interleaved))

    @property
    def arrivals(self) -> gl.constexpr:
        """At a full stage: of who asks TMA for the weight, and for A, or all who copy rows of A."""
        return gl.constexpr(2 if self.a_is_sorted else 1 + 4 * 32)


@gluon.jit
def _load_weight(expert_row, n, half, k, stage, buffers, operands, S: gl.constexpr):
    """Both halves of a tile's rows of the weight, from ``n`` on, or the one that it has.

    expert_row: where the expert's begin, or its columns, where the weight lies transposed.
    """
    b_desc, second_half = operands[2], operands[5]
    PART: gl.constexpr = S.block_n // 2
    b = buffers[1].index(stage)
    bar = buffers[3].index(stage)
    row = expert_row + n
    if S.b_is_transposed:
        mbarrier.expect(bar, b_desc.block_type.nbytes)
        load_tile(b_desc, [expert_row + k, n], bar, b)
    elif half >= 0:
        mbarrier.expect(bar, b_desc.block_type.nbytes)
        load_tile(b_desc, [row, k], bar, b.slice(0, PART))
    else:
        mbarrier.expect(bar, 2 * b_desc.block_type.nbytes)
        load_tile(b_desc, [row, k], bar, b.slice(0, PART))
        load_tile(b_desc, [row + second_half, k], bar, b.slice(PART, PART))


@gluon.jit
def _load_sorted_rows(row, k, stage, buffers, operands, S: gl.constexpr):
    """Rows of A from ``row`` on, and their scales, by TMA."""
    a_buffers, scale_buffers, bar = buffers[0], buffers[2], buffers[3].index(stage)
    a_desc, a_scale_desc = operands[0], operands[6]
    HALF: gl.constexpr = S.block_m // 2
    if S.scales == "block":
        mbarrier.expect(bar, 2 * a_desc.block_type.nbytes + a_scale_desc.block_type.nbytes)
        load_tile(a_scale_desc, [k // S.group_k, row], bar, scale_buffers.index(stage))
    else:
        mbarrier.expect(bar, 2 * a_desc.block_type.nbytes)
    load_tile(a_desc, [row, k], bar, a_buffers.index(2 * stage))
    load_tile(a_desc, [row + HALF, k], bar, a_buffers.index(2 * stage + 1))


_AHEAD = gl.constexpr(4)
"""So many stages before a tile is loaded it is taken; not sooner.

So programs begin with tiles in their order, and find in the cache what neighbours share, however
long each was at the one before.
"""


@gluon.jit
def load_tiles(buffers, routing, operands, S: gl.constexpr):
    """Fill the stages: rows of A by their pairs, their scales, and rows of the weight."""
    a_buffers, _, scale_buffers, full, empty, tile_buffers = buffers
    sorted_token_ids_ptr = routing[0]
    num_pairs, top_k = routing[4:6]
    a_ptr, stride_am, b_desc, expert_rows, K, second_half = operands[:6]
    a_scale_ptr, stride_asm = operands[6:8]
    HALF: gl.constexpr = S.block_m // 2
    RUN: gl.constexpr = 16 * 8 // b_desc.dtype.primitive_bitwidth
    layout: gl.constexpr = gl.BlockedLayout([1, RUN], [4, 8], [4, 1], [1, 0])
    one_each: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    row_of_half = gl.arange(0, HALF, gl.SliceLayout(1, layout))
    row_of_tile = gl.arange(0, S.block_m, one_each)
    columns = gl.arange(0, S.block_k, gl.SliceLayout(0, layout))
    stage = 0
    phase = 1
    num_tiles = count_tiles(routing, S)[0]
    late = gl.maximum(gl.cdiv(K, S.block_k) - _AHEAD, 0) * S.block_k
    number = gl.program_id(0)
    while number < num_tiles:
        tile = looked_up(number, routing, S)
        tile_m, tile_n, half, expert = tile[:4]
        a_row = tile_m * S.block_m
        n = tile_n * (S.block_n // 2 if S.split else S.block_n)
        if half > 0:
            n += second_half
        if not S.a_is_sorted:
            # Padding reads any row: what comes of it is not stored.
            ids_ptr = sorted_token_ids_ptr + a_row
            row_0 = gl.minimum(gl.load(ids_ptr + row_of_half), num_pairs - 1) // top_k
            row_1 = gl.minimum(gl.load(ids_ptr + HALF + row_of_half), num_pairs - 1) // top_k
            a_0 = a_ptr + row_0[:, None].to(gl.int64) * stride_am + columns[None, :]
            a_1 = a_ptr + row_1[:, None].to(gl.int64) * stride_am + columns[None, :]
            if S.scales == "block":
                row = gl.minimum(gl.load(ids_ptr + row_of_tile), num_pairs - 1) // top_k
                a_scales = a_scale_ptr + row.to(gl.int64) * stride_asm
        for k in range(0, K, S.block_k):
            mbarrier.wait(empty.index(stage), phase)
            if k == 0:
                tell(tile_buffers.index(stage), tile)
            _load_weight(expert * expert_rows, n, half, k, stage, buffers, operands, S)
            if S.a_is_sorted:
                _load_sorted_rows(a_row, k, stage, buffers, operands, S)
            else:
                if S.mask_k:
                    mask = (columns < K - k)[None, :]
                    load_rows(a_buffers.index(2 * stage), a_0 + k, mask)
                    load_rows(a_buffers.index(2 * stage + 1), a_1 + k, mask)
                else:
                    load_rows(a_buffers.index(2 * stage), a_0 + k)
                    load_rows(a_buffers.index(2 * stage + 1), a_1 + k)
                if S.scales == "block":
                    scales = scales_of_stage(scale_buffers, stage, S)
                    load_rows(scales, a_scales + k // S.group_k)
                async_copy.mbarrier_arrive(full.index(stage), increment_count=False)
            stage, phase = next_stage_of(stage, phase, S)
            if k == late:
                number = take_tile(routing, num_tiles)
    mbarrier.wait(empty.index(stage), phase)
    tell(tile_buffers.index(stage), (-1, -1, -1, -1, -1, -1))
    mbarrier.arrive(full.index(stage), count=S.arrivals)


@gluon.jit
def _first_b_scales(tile, operands, S: gl.constexpr):
    """The ``b_scales`` of a tile, as :mod:`moe_kernels.ops.hopper_sums` has them."""
    second_half = operands[5]
    b_scale_ptr, stride_bse, stride_bsn = operands[8:11]
    if S.scales == "block":
        first = tile[1] * (S.block_n // 2 if S.split else S.block_n)
        first += gl.where(tile[2] > 0, second_half, 0)
        of_expert = b_scale_ptr + tile[3] * stride_bse
        b_scale_0_ptr = of_expert + first // S.group_n * stride_bsn
        b_scale_1_ptr = of_expert + (first + second_half) // S.group_n * stride_bsn
        return gl.load(b_scale_0_ptr), gl.load(b_scale_1_ptr), b_scale_0_ptr, b_scale_1_ptr
    else:
        return 0.0, 0.0, operands[11], operands[11]


@gluon.jit
def _row_scale(where, part, routing, operands, S: gl.constexpr):
    """The scales of the rows of A from ``where`` on ("outer"), else 1."""
    sorted_token_ids_ptr = routing[0]
    num_pairs, top_k = routing[4:6]
    a_scale_ptr, stride_asm = operands[6:8]
    if S.scales == "outer":
        rows = where + gl.arange(0, S.block_m // 2, gl.SliceLayout(1, part.type.layout))
        if S.a_is_sorted:
            row = rows
        else:
            row = gl.minimum(gl.load(sorted_token_ids_ptr + rows), num_pairs - 1) // top_k
        return gl.load(a_scale_ptr + row.to(gl.int64) * stride_asm)
    else:
        return 1.0


@gluon.jit
def _sums(BOTH: gl.constexpr, GROUP: gl.constexpr, b_scales, state, context, S: gl.constexpr):
    """The sums of both halves of a tile, or of the one that there is, twice."""
    stage, phase, num_tiles_k = state
    buffers, routing = context[:2]
    if S.scales == "none":
        part_0, part_1, stage, phase = sums_of_16_bits(
            BOTH, GROUP, buffers, stage, phase, num_tiles_k, S
        )
    else:
        part_0, part_1, stage, phase = sums_of_tile(
            BOTH, GROUP, buffers, stage, phase, b_scales, num_tiles_k, routing[4] < 0, S
        )
    return part_0, part_1, stage, phase


@gluon.jit
def _store_half(part, first, expert, row_scale, where, context, S: gl.constexpr):
    """Store what comes of the sums of a half, whose rows of the weight are from ``first`` on."""
    _, routing, operands, result = context
    part = scaled(part, row_scale, first, expert, operands[12], operands, S)
    column = first
    if S.interleaved:
        gate, up = gl.split(gl.reshape(part, (part.shape[0], part.shape[1] // 2, 2)))
        part = activated(gate, up, result, S)
        column = first // 2
    elif S.form != "":
        part = activated(part, part, result, S)
    store_rows(part, column, where, routing, result, S)


@gluon.jit
def _multiply_half(GROUP: gl.constexpr, tile, b_scales, state, context, S: gl.constexpr):
    """Multiply, and store, the rows of a tile of which there is only a half."""
    _, routing, operands, _ = context
    tile_m, tile_n, half, expert, _ = tile
    where = tile_m * S.block_m + GROUP * (S.block_m // 2)
    first = tile_n * S.block_n + half * (S.block_n // 2)
    part, _, stage, phase = _sums(False, GROUP, b_scales, state, context, S)
    row_scale = _row_scale(where, part, routing, operands, S)
    _store_half(part, first, expert, row_scale, where, context, S)
    return stage, phase


@gluon.jit
def _multiply(GROUP: gl.constexpr, tile, b_scales, state, context, S: gl.constexpr):
    """Multiply, and store, the rows of a tile."""
    _, routing, operands, result = context
    tile_m, tile_n, _, expert, _ = tile
    second_half, N = operands[5], operands[12]
    PART: gl.constexpr = S.block_n // 2
    where = tile_m * S.block_m + GROUP * (S.block_m // 2)
    first = tile_n * (PART if S.split else S.block_n)
    part_0, part_1, stage, phase = _sums(True, GROUP, b_scales, state, context, S)
    row_scale = _row_scale(where, part_0, routing, operands, S)
    if S.split:
        gate = scaled(part_0, row_scale, first, expert, N, operands, S)
        up = scaled(part_1, row_scale, first + second_half, expert, N, operands, S)
        store_rows(activated(gate, up, result, S), first, where, routing, result, S)
    else:
        _store_half(part_0, first, expert, row_scale, where, context, S)
        _store_half(part_1, first + PART, expert, row_scale, where, context, S)
    return stage, phase


@gluon.jit
def multiply_tiles(GROUP: gl.constexpr, buffers, routing, operands, result, S: gl.constexpr):
    """Multiply, and store, the GROUP-th half of each tile's rows."""
    full, empty, tile_buffers = buffers[3:]
    num_pairs = routing[4]
    stage = 0
    phase = 0
    num_tiles_k = gl.cdiv(operands[4], S.block_k)
    if S.stores_by_tma:
        result = (result[0], result[1], result[2], result[3].index(GROUP))
    context = (buffers, routing, operands, result)
    mbarrier.wait(full.index(stage), phase)
    tile = told(tile_buffers.index(stage), GROUP)
    while tile[0] >= 0:
        b_scales = _first_b_scales(tile, operands, S)
        state = (stage, phase, num_tiles_k)
        if tile[4] >= num_pairs:
            for _ in range(num_tiles_k):
                mbarrier.wait(full.index(stage), phase)
                mbarrier.arrive(empty.index(stage))
                stage, phase = next_stage_of(stage, phase, S)
        elif S.halves_tiles and tile[2] >= 0:
            stage, phase = _multiply_half(GROUP, tile, b_scales, state, context, S)
        else:
            stage, phase = _multiply(GROUP, tile, b_scales, state, context, S)
        mbarrier.wait(full.index(stage), phase)
        tile = told(tile_buffers.index(stage), GROUP)
    if S.stores_by_tma:
        tma.store_wait(0)
