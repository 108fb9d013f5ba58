"""The tokens of few rows' programs: A, from memory to what is multiplied.

Each lane loads those columns that its weights are of (:mod:`moe_kernels.ops.few_rows_weights`).
Where A is quantized here, that takes each program some instructions, and spares a launch.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment,misc"

from __future__ import annotations

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from moe_kernels.ops.few_rows_weights import chunk_of_warps, pair_of_warps, sums_layout
from moe_kernels.quantization.fp8 import MIN_AMAX
from moe_kernels.tiling.tile_config import FEW_ROWS

ROWS = tl.constexpr(FEW_ROWS)
"""Of A, in a program; what the matrix units take on the right."""
_MIN_AMAX = tl.constexpr(MIN_AMAX)
_LARGEST = tl.constexpr(448.0)
"""In e4m3."""


@gluon.constexpr_function
def products_of_chunk(S):
    """How many products a chunk is."""
    return 4 if S.words else S.loads


@gluon.constexpr_function
def columns_of_lane(S):
    """How many of a product's columns each of four lanes has."""
    return S.block_k // 4 // products_of_chunk(S)


@gluon.constexpr_function
def different_rows(S):
    """How many rows of A a warp has: where all are the same, one."""
    return 1 if S.single or S.summed != 0 else ROWS


@gluon.jit
def _chunk_of_tokens(turn, S: gl.constexpr):
    """The chunk of A's columns [warps, 1, 1] that each warp has in its turn, or the last."""
    LAST: gl.constexpr = (S.columns - 1) // S.block_k
    return gl.minimum(chunk_of_warps(turn, S).to(gl.int32), LAST)


@gluon.jit
def pair_of_tokens(S: gl.constexpr):
    """The pair of A's rows [warps, 1, 1] that each warp has in a sum of several, or the last."""
    LAST: gl.constexpr = max(S.summed - 1, 0)
    return gl.minimum(pair_of_warps(S), LAST)


@gluon.jit
def _columns_of_tokens(S: gl.constexpr):
    """Which of a chunk's columns [1, columns, 1] its first product has."""
    k = gl.arange(0, 4 * columns_of_lane(S))[None, :, None]
    if S.words:
        k = k // 16 * 64 + k % 16
    return k


@gluon.jit
def _scale_of_amax(amax):
    return gl.maximum(amax, _MIN_AMAX) / _LARGEST


@gluon.jit
def _scales_of_columns(tokens, S: gl.constexpr):
    """The scale [warps, 1, 1] of the columns that each warp has in a turn, of one row."""
    amax = 0.0
    for product in gl.static_range(products_of_chunk(S)):
        magnitude = gl.abs(tokens[product].to(gl.float32))
        amax = gl.maximum(gl.max(magnitude, 1, keep_dims=True), amax)
    return _scale_of_amax(amax)


@gluon.jit
def _scales_of_rows(rows, a_ptr, stride_am, stride_ak, S: gl.constexpr):
    """The scale [warps, 1, 1] of the row that each warp has: of one, or its pair's."""
    PAIRS: gl.constexpr = S.pairs_at_once
    WARPS: gl.constexpr = S.warps // PAIRS
    BLOCK: gl.constexpr = 256 * WARPS
    LAST: gl.constexpr = max(S.summed - 1, 0)
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [PAIRS, WARPS], [1, 0])
    # Of rows there is one.
    row = gl.minimum(gl.arange(0, PAIRS, gl.SliceLayout(1, layout)), LAST) + gl.sum(rows, 0)
    column = gl.arange(0, BLOCK, gl.SliceLayout(0, layout))
    amax = gl.zeros((PAIRS, BLOCK), gl.float32, layout)
    for start in gl.static_range(0, S.columns, BLOCK):
        pointers = a_ptr + row[:, None] * stride_am + (start + column)[None, :] * stride_ak
        a = gl.load(pointers, mask=(start + column)[None, :] < S.columns, other=0.0)
        amax = gl.maximum(amax, gl.abs(a.to(gl.float32)))
    scale = _scale_of_amax(gl.max(amax, 1, keep_dims=True))
    scale, _ = gl.broadcast(scale, gl.zeros((1, WARPS), gl.float32, layout))
    return gl.reshape(gl.permute(scale, (1, 0)), (S.warps, 1, 1))


@gluon.jit
def tokens_of_warps(rows, a_ptr, stride_am, stride_ak, a_scale_ptr, stride_asm, S: gl.constexpr):
    """What A has for each warp: pointers and scales, of its ``rows``.

    Pointers [warps, columns, rows] to a first chunk's first product; its scale, if rows have one
    or all have; pointers to a first group's scale, if groups have them.
    """
    COLUMNS: gl.constexpr = columns_of_lane(S)
    layout: gl.constexpr = gl.BlockedLayout([1, COLUMNS, 1], [1, 4, 8], [S.warps, 1, 1], [1, 2, 0])
    k = _columns_of_tokens(S)
    row = gl.convert_layout(rows, gl.SliceLayout(0, gl.SliceLayout(1, layout)))[None, None, :]
    pointers = a_ptr + (row + pair_of_tokens(S)) * stride_am + k * stride_ak
    scale = 1.0
    scales = a_ptr
    if S.quantizes == "token":
        scale = gl.convert_layout(_scales_of_rows(rows, a_ptr, stride_am, stride_ak, S), layout)
    elif S.quantizes == "tensor":
        scale = gl.load(a_scale_ptr)
    elif S.scales == "block" and S.quantizes == "":
        scales = a_scale_ptr + (rows[None, None, :] + pair_of_tokens(S)) * stride_asm
    return pointers, scale, scales


@gluon.jit
def load_tokens(turn, tokens, stride_ak, stride_ask, S: gl.constexpr):
    """A's columns of each product of a turn, and their scales, if groups have them.

    Of warps without a chunk, others, which meet zeros.
    """
    SKIPPED: gl.constexpr = 16 if S.words else 4 * columns_of_lane(S)
    pointers, scale, scales = tokens
    first = _chunk_of_tokens(turn, S) * S.block_k
    loaded = ()
    for product in gl.static_range(products_of_chunk(S)):
        column = first + SKIPPED * product
        if S.mask_k:
            mask = column + _columns_of_tokens(S) < S.columns
            a = gl.load(pointers + column * stride_ak, mask=mask, other=0.0)
        else:
            a = gl.load(pointers + column * stride_ak)
        loaded = loaded + (a,)  # noqa: RUF005
    if S.scales == "block" and S.quantizes == "":
        group = _chunk_of_tokens(turn, S) * S.block_k // S.group_k
        scale = gl.load(scales + group * stride_ask)
    return loaded, scale


@gluon.jit
def quantized_tokens(loaded, S: gl.constexpr):
    """What is loaded as it is multiplied, and the scales of groups as sums lie."""
    tokens, scale = loaded
    if S.quantizes == "group":
        scale = _scales_of_columns(tokens, S)
    if S.quantizes != "":
        factor = 1.0 / scale
        values = ()
        for product in gl.static_range(products_of_chunk(S)):
            # FP8's largest number is what larger ones become.
            value = (tokens[product].to(gl.float32) * factor).to(gl.float8e4nv)
            values = values + (value,)  # noqa: RUF005
        tokens = values
    if S.quantizes == "group":
        scale = gl.convert_layout(scale, sums_layout(S.warps), assert_trivial=True)
    return tokens, scale
