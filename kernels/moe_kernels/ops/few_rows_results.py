"""The results of few rows' programs: from all warps' sums to memory, through the activation."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment,misc"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from moe_kernels.ops.activation import activate
from moe_kernels.ops.few_rows_tokens import ROWS, viewed_shared


@gluon.jit
def _activated(total, out_ptr, parameters, S: gl.constexpr):
    """``total``, through the activation if there is one, as it is stored. Gated: [..., 2]."""
    if S.form != "":
        if S.quantized:
            total = total.to(out_ptr.dtype.element_ty).to(gl.float32)
        gate = total
        up = total
        if S.gated:
            gate, up = gl.split(total)
        total = activate(gate, up, parameters, S)
    return total.to(out_ptr.dtype.element_ty)


@gluon.jit
def store(total, pair, num_rows, place, result, S: gl.constexpr):
    """Store ``total`` [N, ROWS], through the activation if there is one, for ``pair`` [ROWS]."""
    out_ptr, parameters = result
    _, tile_n, _, width = place
    PART_N: gl.constexpr = S.block_n // 2 if S.gated else S.block_n
    if S.gated:
        total = gl.permute(gl.reshape(total, (PART_N // 8, 2, 8, ROWS)), (0, 2, 3, 1))
    total = gl.reshape(_activated(total, out_ptr, parameters, S), (PART_N, ROWS))
    layout: gl.constexpr = gl.BlockedLayout([1, 1], [8, 4], [S.warps, 1], [0, 1])
    total = gl.convert_layout(total, layout)
    column = (tile_n * PART_N + gl.arange(0, PART_N))[:, None]
    pair = gl.convert_layout(pair, gl.SliceLayout(0, layout))[None, :].to(gl.int64)
    mask = (gl.arange(0, ROWS)[None, :] < num_rows) & (column < width)
    gl.store(out_ptr + pair * width + column, total, mask=mask)


@gluon.jit
def store_of_one(sums, pair, exists, place, result, S: gl.constexpr):
    """As :func:`store`, what all warps' ``sums`` [warps, N, ROWS] of one token are together.

    Its rows are all the same. By way of shared memory they come to threads that each have all that
    a column of the result takes: whatever else moves numbers between warps has barriers of its own.
    """
    out_ptr, parameters = result
    _, tile_n, _, width = place
    TILES: gl.constexpr = S.block_n // 16
    PART_N: gl.constexpr = S.block_n // 2 if S.gated else S.block_n
    of_four_lanes, _ = gl.split(gl.reshape(sums, (S.warps, S.block_n, 4, 2)))
    row_by_row: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0])
    memory = gl.allocate_shared_memory(gl.float32, [4, S.warps, S.block_n], row_by_row)
    memory.store(gl.permute(of_four_lanes, (2, 0, 1)))
    memory = viewed_shared(memory, [4, S.warps, TILES, 2, 8], [3, 2, 1, 0]).index(0)
    layout: gl.constexpr = gl.BlockedLayout(
        [S.warps, TILES, 2, 1], [1, 4, 1, 8], [1, S.warps, 1, 1], [3, 2, 1, 0]
    )
    total = gl.sum(memory.load(layout), 0)
    if S.gated:
        total = gl.permute(total, (0, 2, 1))
    total = gl.reshape(_activated(total, out_ptr, parameters, S), (PART_N,))
    column = tile_n * PART_N + gl.arange(0, PART_N, total.type.layout)
    pair = gl.to_tensor(pair).to(gl.int64)
    gl.store(out_ptr + pair * width + column, total, mask=exists & (column < width))
