"""The tokens of few rows' programs: A, from memory to what is multiplied.

Each lane has those columns that its weights are of (:mod:`moe_kernels.ops.few_rows_weights`). Of
several tokens it loads them a turn ahead. What a program has of a single token it brings to shared
memory first, all at once: quantized there once, if it is quantized here, which spares a launch.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment,misc"

from __future__ import annotations

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from moe_kernels.ops.few_rows_weights import (
    chunk_of_warps,
    pair_of_warps,
    runs_of_words,
    sums_layout,
)
from moe_kernels.ops.gluon_names import as_other
from moe_kernels.ops.quotient import bounded_quotient, quotient
from moe_kernels.quantization.fp8 import MIN_AMAX
from moe_kernels.tiling.tile_config import FEW_ROWS

ROWS = tl.constexpr(FEW_ROWS)
"""Of A, in a program; what the matrix units take on the right."""
_MIN_AMAX = tl.constexpr(MIN_AMAX)
_LARGEST = tl.constexpr(448.0)
"""In e4m3."""
_RAISE = 64
"""With raw bits, which are tiny numbers, tokens are multiplied as 2^64 times what they are: so sums
are far from the smallest and the largest numbers that there are, unless tokens are."""
LOWERED = tl.constexpr(2.0 ** (133 - _RAISE))
"""By what factor such sums are less than they should be."""
_MOST_TURNS = 8
"""Of so many turns at most tokens are brought to shared memory at a time."""


@gluon.constexpr_function
def products_of_chunk(S):
    """How many products a chunk is."""
    return 4 if S.words else S.loads


@gluon.constexpr_function
def columns_of_lane(S):
    """How many of a product's columns each of four lanes has."""
    return S.block_k // 4 // products_of_chunk(S)


@gluon.constexpr_function
def code_of_one(product, S):
    """What stands for 1 among the raw bits that are a product."""
    return 16 if S.format == "int4" and product % 2 == 1 else 1


@gluon.jit
def _chunk_of_tokens(turn, S: gl.constexpr):
    """The chunk of A's columns [warps, 1, 1] that each warp has in its turn, or the last."""
    LAST: gl.constexpr = (S.columns - 1) // S.block_k
    return gl.minimum(chunk_of_warps(turn, S).to(gl.int32), LAST)


@gluon.jit
def _existing(pair, S: gl.constexpr):
    """``pair``, or the last that is summed, if there is no such one."""
    LAST: gl.constexpr = max(S.summed - 1, 0)
    return gl.minimum(pair, LAST)


@gluon.jit
def pair_of_tokens(S: gl.constexpr):
    """The pair of A's rows [warps, 1, 1] that each warp has in a sum of several, or the last."""
    return _existing(pair_of_warps(S), S)


@gluon.jit
def _column_of_chunk(k, product, S: gl.constexpr):
    """Which of a chunk's columns is the ``k``-th of a product."""
    RUN: gl.constexpr = columns_of_lane(S)
    RUNS: gl.constexpr = runs_of_words(S)
    WORDS: gl.constexpr = 16 // S.loads  # neighbours of one load, 16 have the same runs
    if S.words:
        column = k // WORDS * (16 * RUNS) + k % WORDS
        column += product // RUNS * WORDS + product % RUNS * 16
    else:
        column = k // RUN * (RUN * products_of_chunk(S)) + k % RUN + RUN * product
    return column


@gluon.jit
def _columns_of_tokens(S: gl.constexpr):
    """Which of a chunk's columns [1, columns, 1] its first product has."""
    return _column_of_chunk(gl.arange(0, 4 * columns_of_lane(S))[None, :, None], 0, S)


@gluon.jit
def tokens_of_rows(rows, a_ptr, stride_am, stride_ak, a_scale_ptr, stride_asm, S: gl.constexpr):
    """Where ``rows`` of A are: pointers and scales.

    Pointers [warps, columns, rows] to a first chunk's first product; the scale that all have, if
    they are quantized here; pointers to a first group's scale, if groups have them.
    """
    COLUMNS: gl.constexpr = columns_of_lane(S)
    layout: gl.constexpr = gl.BlockedLayout([1, COLUMNS, 1], [1, 4, 8], [S.warps, 1, 1], [1, 2, 0])
    k = _columns_of_tokens(S)
    row = gl.convert_layout(rows, gl.SliceLayout(0, gl.SliceLayout(1, layout)))[None, None, :]
    pointers = a_ptr + (row + pair_of_tokens(S)) * stride_am + k * stride_ak
    scale = 1.0
    scales = a_ptr
    if S.quantizes == "tensor":
        scale = gl.load(a_scale_ptr)
    elif S.scales == "block":
        scales = a_scale_ptr + (rows[None, None, :] + pair_of_tokens(S)) * stride_asm
    return pointers, scale, scales


@gluon.jit
def load_tokens(turn, tokens, stride_ak, stride_ask, S: gl.constexpr):
    """A's columns of each product of a turn, and their scales, if groups have them.

    Of warps without a chunk, others, which meet zeros.
    """
    pointers, scale, scales = tokens
    first = _chunk_of_tokens(turn, S) * S.block_k
    loaded = ()
    for product in gl.static_range(products_of_chunk(S)):
        column = first + _column_of_chunk(0, product, S)
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
    if S.quantizes != "":
        values = ()
        for product in gl.static_range(products_of_chunk(S)):
            values = values + (_quantized(tokens[product], scale),)  # noqa: RUF005
        tokens = values
    elif S.scale_sums:
        values = ()
        for product in gl.static_range(products_of_chunk(S)):
            raised = tokens[product] * _raise_of(product, S)
            values = values + (raised,)  # noqa: RUF005
        tokens = values
    return tokens, scale


@gluon.constexpr_function
def _raise_of(product, S):
    return 2.0**_RAISE / code_of_one(product, S)


@gluon.jit
def _quantized(x, scale):
    """In FP8; its largest number is what larger ones become."""
    return bounded_quotient(x.to(gl.float32), scale, _LARGEST).to(gl.float8e4nv)


@gluon.jit
def _scale_of_amax(amax):
    return quotient(gl.maximum(amax, _MIN_AMAX), _LARGEST)


@gluon.constexpr_function
def _parts_of_turns(S):
    """In how many parts one token's turns are brought to shared memory, and turns of a part."""
    columns_of_turn = S.block_k.value * (S.warps.value // S.pairs_at_once.value)
    turns = -(-S.columns.value // columns_of_turn)
    of_part = min(_MOST_TURNS, 1 << (turns - 1).bit_length())
    return -(-turns // of_part), of_part


@gluon.constexpr_function
def _has_numbers_of_turns(S):
    """Whether something goes with each warp's turn: a group's scale, or the sum over a chunk."""
    return S.scales == "block" or S.scale_sums


@gluon.constexpr_function
def _layout_of_part(S):
    """Of [turns, products, warps, columns]: each warp has its own, lanes 8 columns at a time."""
    products = products_of_chunk(S)
    turns = _parts_of_turns(S)[1]
    at_once = min(turns, 256 // S.block_k.value)
    size, lanes = S.block_k.value * at_once // 32, 32 // at_once // products
    return gl.BlockedLayout(
        [turns // at_once, 1, 1, size],
        [at_once, products, 1, lanes],
        [1, 1, S.warps, 1],
        [3, 1, 0, 2],
    )


@gluon.jit
def pointers_of_part(part, row, a_ptr, stride_am, stride_ak, S: gl.constexpr):
    """To one token's columns [turns, products, warps, columns] of a part of the turns; a mask."""
    PRODUCTS: gl.constexpr = products_of_chunk(S)
    COLUMNS: gl.constexpr = 4 * columns_of_lane(S)
    TURNS: gl.constexpr = _parts_of_turns(S)[1]
    layout: gl.constexpr = _layout_of_part(S)
    turn = part * TURNS + gl.arange(0, TURNS)[:, None, None, None]
    product = gl.arange(0, PRODUCTS)[None, :, None, None]
    warp = gl.arange(0, S.warps)[None, None, :, None]
    k = gl.arange(0, COLUMNS)[None, None, None, :]
    k = _column_of_chunk(k, product, S)
    chunk = turn * (S.warps // S.pairs_at_once) + warp // S.pairs_at_once
    column = chunk * S.block_k + k
    row += _existing(warp % S.pairs_at_once, S)
    pointers = gl.set_auto_layout(a_ptr + row * stride_am + column * stride_ak, layout)
    return pointers, gl.set_auto_layout(column < S.columns, layout)


@gluon.jit
def _load_part(part, row, a_ptr, stride_am, stride_ak, S: gl.constexpr):
    """One token's columns of a part of the turns: [turns, products, warps, columns]."""
    pointers, mask = pointers_of_part(part, row, a_ptr, stride_am, stride_ak, S)
    return gl.load(pointers, mask=mask, other=0.0)


@gluon.jit
def _load_scales(part, row, scales, stride_asm, stride_ask, S: gl.constexpr):
    """The scales of the groups [turns, warps] of what :func:`_load_part` loads."""
    TURNS: gl.constexpr = _parts_of_turns(S)[1]
    turn = part * TURNS + gl.arange(0, TURNS)[:, None]
    warp = gl.arange(0, S.warps)[None, :]
    chunk = turn * (S.warps // S.pairs_at_once) + warp // S.pairs_at_once
    row += _existing(warp % S.pairs_at_once, S)
    pointers = scales + row * stride_asm + chunk * S.block_k // S.group_k * stride_ask
    layout: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(3, _layout_of_part(S)))
    mask = gl.set_auto_layout(chunk * S.block_k < S.columns, layout)
    return gl.load(gl.set_auto_layout(pointers, layout), mask=mask, other=0.0)


@gluon.jit
def _raised(a, S: gl.constexpr):
    """Of one token, ``a`` for raw bits."""
    product = gl.arange(0, products_of_chunk(S))[None, :, None, None]
    factor = gl.where(product % 2 == 1, _raise_of(1, S), _raise_of(0, S)).to(S.dtype)
    return a * gl.set_auto_layout(factor, a.type.layout)


@gluon.jit
def viewed_shared(memory, SHAPE: gl.constexpr, ORDER: gl.constexpr):
    """Shared memory that is not swizzled, in another shape."""
    layout: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, ORDER)
    return as_other(memory, memory.dtype, SHAPE, layout)


@gluon.jit
def tokens_in_shared(
    first, row, a_ptr, stride_am, stride_ak, a_scale_ptr, stride_asm, stride_ask, S: gl.constexpr
):
    """A's ``row``, or the rows of the pairs from there on, in shared memory, and their scales.

    first: where its first part is (:func:`pointers_of_part`).
    Returns [turns * products, warps, columns] as they are multiplied, in the order of each warp's
    weights; the scale of each warp's row [warps, 1, 1], or of all; [turns, warps] in shared memory,
    the scales of groups, or the sums over chunks.
    """
    PRODUCTS: gl.constexpr = products_of_chunk(S)
    COLUMNS: gl.constexpr = 4 * columns_of_lane(S)
    PARTS: gl.constexpr = _parts_of_turns(S)[0]
    TURNS: gl.constexpr = _parts_of_turns(S)[1]
    PAIRS: gl.constexpr = S.pairs_at_once
    three: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0])
    two: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    values = gl.allocate_shared_memory(S.dtype, [PARTS, TURNS * PRODUCTS, S.warps, COLUMNS], three)
    numbers = values
    if _has_numbers_of_turns(S):
        numbers = gl.allocate_shared_memory(gl.float32, [PARTS, TURNS, S.warps], two)
    scale = 1.0
    a = gl.load(first[0], mask=first[1], other=0.0)
    tl.debug_barrier()  # or ptxas loads some of it only when others have come
    if S.quantizes == "tensor":
        scale = gl.load(a_scale_ptr)
    elif S.quantizes == "token":
        amax = gl.max(gl.max(gl.max(gl.abs(a.to(gl.float32)), 3), 1), 0)
        for part in gl.static_range(1, PARTS):
            other = _load_part(part, row, a_ptr, stride_am, stride_ak, S).to(gl.float32)
            amax = gl.maximum(amax, gl.max(gl.max(gl.max(gl.abs(other), 3), 1), 0))
        of_pairs = gl.max(gl.reshape(amax, (S.warps // PAIRS, PAIRS)), 0, keep_dims=True)
        warps = gl.full((S.warps // PAIRS, 1), 0.0, gl.float32, of_pairs.type.layout)
        of_pairs, _ = gl.broadcast(of_pairs, warps)
        scale = gl.convert_layout(gl.reshape(of_pairs, (S.warps,)), amax.type.layout)
        scale = _scale_of_amax(scale)[None, None, :, None]
    for part in gl.static_range(PARTS):
        if part > 0:
            a = _load_part(part, row, a_ptr, stride_am, stride_ak, S)
        if S.scale_sums:
            sums = gl.sum(gl.sum(a.to(gl.float32), 3), 1)
            numbers.index(part).store(sums * (1.0 / LOWERED))
            a = _raised(a, S)
        elif S.quantizes == "group":
            of_groups = _scale_of_amax(gl.max(gl.max(gl.abs(a.to(gl.float32)), 3), 1))
            a = _quantized(a, of_groups[:, None, :, None])
            numbers.index(part).store(of_groups)
        elif S.scales == "block":
            of_groups = _load_scales(part, row, a_scale_ptr, stride_asm, stride_ask, S)
            numbers.index(part).store(of_groups)
        elif S.quantizes != "":
            a = _quantized(a, scale)
        values.index(part).store(gl.reshape(a.to(S.dtype), (TURNS * PRODUCTS, S.warps, COLUMNS)))
    tl.debug_barrier()  # or Triton has one in every turn of a loop
    if S.quantizes == "token":
        by_sum: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, sums_layout(S.warps)))
        scale = gl.convert_layout(gl.reshape(scale, (S.warps,)), by_sum)[:, None, None]
    values = viewed_shared(values, [PARTS * TURNS * PRODUCTS, S.warps, COLUMNS], [1, 0])
    if _has_numbers_of_turns(S):
        numbers = viewed_shared(numbers, [PARTS * TURNS, S.warps], [0])
    return values, scale, numbers


@gluon.jit
def tokens_of_turn(turn, tokens, S: gl.constexpr):
    """Of :func:`tokens_in_shared`, each warp's columns of a turn's products, and what goes there.

    The latter [warps, 1, 1], as sums lie.
    """
    values, _, numbers = tokens
    PRODUCTS: gl.constexpr = products_of_chunk(S)
    COLUMNS: gl.constexpr = columns_of_lane(S)
    layout: gl.constexpr = gl.BlockedLayout([1, COLUMNS, 1], [1, 4, 8], [S.warps, 1, 1], [1, 2, 0])
    loaded = ()
    for product in gl.static_range(PRODUCTS):
        a = values.index(turn * PRODUCTS + product).load(gl.SliceLayout(2, layout))
        loaded = loaded + (gl.expand_dims(a, 2),)  # noqa: RUF005
    number = 1.0
    if _has_numbers_of_turns(S):
        by_sum: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, sums_layout(S.warps)))
        number = numbers.index(turn).load(by_sum)[:, None, None]
    return loaded, number
