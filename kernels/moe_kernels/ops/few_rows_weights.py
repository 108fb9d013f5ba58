"""The weights of few rows' programs: from memory to registers, and there to numbers.

Each of the program's warps has a chunk of 64 bytes of every row of its tile, or of 128 where a word
holds two runs of columns only. Four lanes load 16 bytes of it each, and keep them: which of a
chunk's columns is which of a product's does not matter as long as the tokens have theirs in the
same order. So nothing moves between lanes or through shared memory. Of packed words
(:mod:`moe_kernels.quantization.words`), each of the four runs of columns is a product of its own.

Registers have 32 bits, so that is what weights are loaded as; as smaller numbers they would take a
register each.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment,misc"

from __future__ import annotations

from dataclasses import dataclass

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from moe_kernels.ops.gemm_programs import Settings
from moe_kernels.ops.routing import local_expert
from moe_kernels.ops.unpack_weights import raw_runs, scale_values, unpack_run, unpack_runs_bf16x2


@dataclass(frozen=True, eq=False)
class FewRowsSettings(Settings):
    """What the kernel is compiled for. ``block_k``: columns of a chunk."""

    warps: int
    columns: int
    """K."""
    single: bool
    """Whether a program has one pair at a time, of one token."""
    in_turn: bool
    """Whether a program of one token has several of its local pairs, one after the other."""
    adds_up: bool
    """Whether it has all, and adds them up."""
    summed: int
    """How many pairs are summed side by side, 0: none are."""
    pairs_at_once: int
    """As many or more, a power of two; else 1."""
    in_shared: bool
    """Whether what a program has of A, of one token, is brought to shared memory first."""
    has_topk_weights: bool
    format: str
    """Of weights that are dequantized to the dtype of A; "": those that are multiplied."""
    words: bool
    """Whether values are in words."""
    loads: int
    """How many times 16 bytes each lane has of a chunk, 1 or 2."""
    packed_arithmetic: bool
    """Whether two numbers are unpacked at a time."""
    scale: str
    """The dtype of the scales of groups of columns."""
    per_unit: int
    """Scales of a unit."""
    group: int
    one_unit: bool
    """Whether a lane's columns of a chunk have their scales in one unit."""
    scale_sums: bool
    """Whether words' bits are multiplied as they are (:func:`raw_runs`), and the sums over a chunk
    by its scales, not every number."""
    row_words: int
    """32 bits each, of a row of the weight."""
    unrolled: int
    """How many turns a loop's body has: where it has all, each turn's loads come as early as they
    may, else at its end, after all products."""
    whole: bool
    """Whether every warp has a chunk in each of its turns, and all of it."""
    scales_per_block: int
    has_zero_point: bool
    scales: str
    """Of weights that are multiplied as they are: "none", "outer" or "block"."""
    quantizes: str
    """How A is quantized here: over the scale of a "tensor", which is given, the scale of each
    "token", or that of the "group" of columns that are a chunk; "" if it is not."""
    group_n: int
    group_k: int
    has_a_scale: bool
    has_row_scale: bool
    dtype: tl.dtype
    """Of the operands of the products."""


@gluon.constexpr_function
def sums_layout(warps):
    """Of the sums [warps, N, ROWS] of products."""
    return gl.NVMMADistributedLayout([2, 0], [warps, 1, 1], [1, 16, 8])


@gluon.jit
def chunk_of_warps(turn, S: gl.constexpr):
    """The chunk [warps, 1, 1] that each warp has in its turn; warps of a pair alternate."""
    warp = gl.arange(0, S.warps)[:, None, None]
    return (turn * (S.warps // S.pairs_at_once) + warp // S.pairs_at_once).to(gl.uint32)


@gluon.jit
def pair_of_warps(S: gl.constexpr):
    """The pair [warps, 1, 1] that each warp has in a sum of several, else 0."""
    return gl.arange(0, S.warps)[:, None, None] % S.pairs_at_once


@gluon.jit
def expert_of_warps(expert, routing, S: gl.constexpr):
    """Each warp's expert, and whether it has one; without a sum the program's."""
    topk_ids_ptr, expert_map_ptr, num_experts = routing
    pair = pair_of_warps(S)
    exists = pair >= 0
    if S.summed != 0:
        local = local_expert(
            topk_ids_ptr, pair, pair < S.summed, expert_map_ptr, num_experts, S.has_expert_map
        )
        exists = local >= 0
        expert = gl.maximum(local, 0).to(gl.int64)
    return expert, exists


@gluon.jit
def exists_in_turn(turn, exists, S: gl.constexpr):
    """Whether each warp has a chunk [warps, 1, 1], of those that have an expert."""
    return exists & (chunk_of_warps(turn, S) < (S.columns + S.block_k - 1) // S.block_k)


@gluon.jit
def rows_of_tile(place, S: gl.constexpr):
    """The rows [block_n] of the weight that a tile has; instead of those out of range, the last.

    Of 16 rows, 8 are gates and 8 the ups of the same columns of the result.
    """
    _, tile_n, N, width = place
    index = gl.arange(0, S.block_n)
    if S.gated:
        column = gl.minimum(tile_n * (S.block_n // 2) + index // 16 * 8 + index % 8, width - 1)
        part = index % 16 // 8
        n = 2 * column + part if S.interleaved else part * width + column
    else:
        n = gl.minimum(tile_n * S.block_n + index, N - 1)
    return n


@gluon.constexpr_function
def unit_lanes(S):
    """For how many lanes of a row units are kept: 1 where all have the same."""
    return 1 if S.scale_sums or S.scales == "block" else 4


@gluon.constexpr_function
def runs_of_words(S):
    """How many runs of columns words have, each a product's: those of bytes take two loads."""
    return 4 // S.loads


@gluon.jit
def _group(chunk, run: gl.constexpr, num_groups, S: gl.constexpr):
    """The group of each lane's columns of a run: 8 of them in words, else 16."""
    RUNS: gl.constexpr = runs_of_words(S)
    lane = gl.arange(0, unit_lanes(S))[None, None, :].to(gl.uint32)
    of_words = lane * S.loads // 2 * (16 * RUNS) + 16 * (run % RUNS)
    column = chunk * S.block_k + (of_words if S.words else lane * 16)
    group = column // S.group
    if S.per_unit * S.group < S.block_k:  # the last chunk has a unit less, if it is not whole
        group = gl.minimum(group, (num_groups - 1).to(gl.uint32))
    return group


@gluon.jit
def _words_of_load(S: gl.constexpr):
    """Which of a chunk's words of 32 bits [1, 1, 16] its first load has."""
    # Both loads of a lane are neighbours: the first asks for whole cache lines.
    k = gl.arange(0, 16)[None, None, :]
    return k // 4 * (4 * S.loads) + k % 4


@gluon.jit
def weights_of_warps(place, weights, routing, S: gl.constexpr):
    """Pointers to each warp's first chunk [warps, N, 16], and which warps have any."""
    b_ptr, stride_be, stride_bn = weights  # strides in 16 bytes: Triton is to know that they are
    layout: gl.constexpr = gl.BlockedLayout([1, 1, 4], [1, 8, 4], [S.warps, 1, 1], [2, 1, 0])
    expert, exists = expert_of_warps(place[0], routing, S)
    n = rows_of_tile(place, S)[None, :, None].to(gl.int64)
    k = _words_of_load(S) + chunk_of_warps(0, S).to(gl.int32) * (16 * S.loads)
    pointers = b_ptr + (expert * stride_be + n * stride_bn) * 4 + k
    return gl.set_auto_layout(pointers, layout), exists


@gluon.jit
def units_of_warps(units_ptr, place, scales, routing, S: gl.constexpr):
    """Pointers to each row's first unit of scales or zero points, and which warps have any.

    [warps, N, 4], one for each lane; [warps, N, 1], as sums lie, where :func:`unit_lanes` are 1.
    """
    stride_bse, stride_bsn, _, _ = scales
    LANES: gl.constexpr = unit_lanes(S)
    lanes: gl.constexpr = gl.SliceLayout(
        3, gl.BlockedLayout([1, 1, 1, 4], [1, 8, 4, 1], [S.warps, 1, 1, 1], [3, 2, 1, 0])
    )
    expert, exists = expert_of_warps(place[0], routing, S)
    lane = gl.arange(0, LANES)[None, None, :]
    n = rows_of_tile(place, S)[None, :, None] // S.group_n
    pointers = units_ptr + expert * stride_bse + n * stride_bsn + lane * 0
    if LANES == 1:
        pointers = gl.set_auto_layout(pointers, sums_layout(S.warps))
    else:
        pointers = gl.set_auto_layout(pointers, lanes)
    return pointers, exists


@gluon.jit
def _load_units(run: gl.constexpr, turn, units, scales, S: gl.constexpr):
    """The units that hold the scales, or zero points, of each lane's columns of a run."""
    pointers, exists = units
    _, _, stride_bsg, num_groups = scales
    unit = (_group(chunk_of_warps(turn, S), run, num_groups, S) // S.per_unit).to(gl.int32)
    return _load(pointers + unit * stride_bsg, exists_in_turn(turn, exists, S), S)


@gluon.jit
def _load(pointers, mask, S: gl.constexpr):
    """What is at ``pointers``; elsewhere 0, if what is loaded there is ever used."""
    return gl.load(pointers, mask) if S.whole else gl.load(pointers, mask, other=0)


@gluon.jit
def load_chunk(turn, weights, units, zero_units, scales, S: gl.constexpr):
    """Each warp's chunk: one load or two [warps, N, 16], and units of scales and zero points."""
    pointers, exists = weights
    WORDS: gl.constexpr = 16 * S.loads
    pointers += turn * (S.warps // S.pairs_at_once * WORDS)
    loaded = ()
    for load in gl.static_range(S.loads):
        mask = exists_in_turn(turn, exists, S)
        if S.row_words % WORDS != 0:
            first = chunk_of_warps(turn, S).to(gl.int32) * WORDS + load * 4
            mask = mask & (first + _words_of_load(S) < S.row_words)
        loaded = loaded + (_load(pointers + load * 4, mask, S),)  # noqa: RUF005
    unit = 0
    zero_unit = 0
    if S.one_unit:
        unit = _load_units(0, turn, units, scales, S)
        if S.has_zero_point:
            zero_unit = _load_units(0, turn, zero_units, scales, S)
    return loaded[0], loaded[S.loads - 1], unit, zero_unit


@gluon.jit
def _for_columns(x, like):
    """Numbers of lanes [warps, N, 4] for each of a lane's columns of ``like``, in its layout."""
    COLUMNS: gl.constexpr = like.shape[2] // 4
    x = gl.expand_dims(x, 3)
    x, _ = gl.broadcast(x, gl.full((1, 1, 1, COLUMNS), 0, gl.int32, x.type.layout))
    x = gl.reshape(x, (x.shape[0], x.shape[1], 4 * COLUMNS))
    return gl.convert_layout(x, like.type.layout, assert_trivial=True)


@gluon.jit
def _halves(x, DTYPE: gl.constexpr):
    """Both numbers of each 32 bits [warps, N, columns / 2], the low ones first."""
    low = (x & 0xFFFF).to(gl.int16).to(DTYPE, bitcast=True)
    high = (x >> 16).to(gl.int16).to(DTYPE, bitcast=True)
    return gl.reshape(gl.join(low, high), (x.shape[0], x.shape[1], 2 * x.shape[2]))


@gluon.jit
def _twice(x, like):
    """float32 of lanes as two bfloat16 each, for all of their columns."""
    both = gl.inline_asm_elementwise(
        "cvt.rn.bf16x2.f32 $0, $1, $1;", "=r,r", [x], dtype=gl.int32, is_pure=True, pack=1
    )
    return _for_columns(both, like)


@gluon.jit
def _e4m3(x):
    """The four numbers of each 32 bits [warps, N, columns / 4], as float16."""
    low, high = gl.inline_asm_elementwise(
        """{
            .reg .b16 low, high;
            mov.b32 {low, high}, $2;
            cvt.rn.f16x2.e4m3x2 $0, low;
            cvt.rn.f16x2.e4m3x2 $1, high;
        }""",
        "=r,=r,r",
        [x],
        dtype=(gl.int32, gl.int32),
        is_pure=True,
        pack=1,
    )
    both = gl.reshape(gl.join(low, high), (x.shape[0], x.shape[1], 2 * x.shape[2]))
    return _halves(both, gl.float16)


@gluon.jit
def _scale(run: gl.constexpr, unit, turn, units, scales, S: gl.constexpr):
    """The scales, or zero points, of each lane's columns of a run; ``unit``: what they are in."""
    if not S.one_unit:
        unit = _load_units(run, turn, units, scales, S)
    group = _group(chunk_of_warps(turn, S), run, scales[3], S)
    return scale_values(unit >> (group % S.per_unit * (32 // S.per_unit)).to(gl.int32), S.scale)


@gluon.jit
def scales_of_chunk(turn, loaded, units, zero_units, scales, S: gl.constexpr):
    """(scale, zero point) of the sums over each warp's chunk, [warps, N, 1] or numbers."""
    _, _, unit, zero_unit = loaded
    zero_point = 8.0 if S.format == "int4" else 128.0
    if S.has_zero_point:
        zero_point = _scale(0, zero_unit, turn, zero_units, scales, S)
    return _scale(0, unit, turn, units, scales, S), zero_point


@gluon.jit
def numbers_of_chunk(turn, loaded, units, zero_units, scales, S: gl.constexpr):
    """The weights of a chunk as numbers: a tuple of what is a product each.

    With ``S.scale_sums``, without scales and zero points.
    """
    word, other, unit, zero_unit = loaded
    RUNS: gl.constexpr = 4 // S.scales_per_block
    factors = ()
    zero_points = ()
    if S.format != "" and not S.scale_sums:
        for part in gl.static_range(S.scales_per_block):
            factor = _scale(part * RUNS, unit, turn, units, scales, S)
            zero_point = gl.full_like(factor, 8.0 if S.format == "int4" else 128.0)
            if S.has_zero_point:
                zero_point = _scale(part * RUNS, zero_unit, turn, zero_units, scales, S)
            for _ in gl.static_range(RUNS):
                factors = factors + (factor,)  # noqa: RUF005
                zero_points = zero_points + (zero_point,)  # noqa: RUF005
    values = ()
    if S.format == "":
        for load in gl.static_range(S.loads):
            piece = word if load == 0 else other
            value = _e4m3(piece) if S.quantized else _halves(piece, S.dtype)
            values = values + (value,)  # noqa: RUF005
    elif not S.words:
        value = _e4m3(word)
        values = ((value.to(gl.float32) * _for_columns(factors[0], value)).to(S.dtype),)
    elif S.scale_sums:
        bits = raw_runs(word, other, S.format)
        for run in gl.static_range(4):
            values = values + (_halves(bits[run], gl.bfloat16),)  # noqa: RUF005
    elif S.packed_arithmetic:
        runs = unpack_runs_bf16x2(
            word,
            other,
            _twice(factors[0], word),
            _twice(factors[2], word),
            _twice(zero_points[0], word),
            _twice(zero_points[2], word),
            S.format,
            S.has_zero_point,
            True,
        )
        for run in gl.static_range(4):
            values = values + (_halves(runs[run], gl.bfloat16),)  # noqa: RUF005
    else:
        for run in gl.static_range(4):
            code = _halves(word if run < 2 else other, gl.int16)
            factor = _for_columns(factors[run], code)
            zero_point = _for_columns(zero_points[run], code)
            value = unpack_run(code, factor, zero_point, S.format, S.dtype, run)
            values = values + (value,)  # noqa: RUF005
    return values
