"""Stages of packed weights in shared memory to the fragments that Hopper's matrix units take.

For kernels in Gluon; see :mod:`moe_kernels.ops.fused_moe_gemm_quantized_hopper`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code=assignment
# ruff: noqa: RUF005  # kernels add tuples, but do not unpack them

from __future__ import annotations

from typing import Any

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.runtime.jit import constexpr_function

from moe_kernels.ops.unpack_weights import scale_values, unpack_words_bf16x2


@constexpr_function
def words_layout(rows, words, warps):
    """Of words [rows, words] int16: that of the fragments which the matrix units take."""
    registers = [[0, 1], [8, 0], [0, 8]]
    registers += [[0, 16 << i] for i in range((words // 16).bit_length() - 1)]
    registers += [[16 * warps << i, 0] for i in range((rows // (16 * warps)).bit_length() - 1)]
    lanes = [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]]
    each = [[16 << i, 0] for i in range(warps.bit_length() - 1)]
    return gl.DistributedLinearLayout(registers, lanes, each, [], [rows, words])


@constexpr_function
def words_in_shared_memory(words):
    """Such that what the lanes of :func:`words_layout` read is in different banks."""
    row = 2 * words
    return gl.SwizzledSharedLayout(8, max(1, 128 // row), min(8, row // 16), [1, 0])


@gluon.jit
def _halves(x):
    """The left and the right half of x [N, columns]; registers are renamed."""
    return gl.split(gl.permute(gl.reshape(x, (x.shape[0], 2, x.shape[1] // 2)), (0, 2, 1)))


@gluon.jit
def blocks_of_stage(words, S: gl.constexpr):
    """The words of each product of a stage."""
    if S.blocks == 1:
        blocks = (words,)
    elif S.blocks == 2:
        blocks = _halves(words)
    else:
        left, right = _halves(words)
        blocks = _halves(left) + _halves(right)
    return blocks


def count_units(settings: Any) -> int:
    """How many units of scales a row has in a stage."""
    columns = settings.block_k.value * settings.blocks.value
    return int(max(1, columns // (settings.group.value * settings.per_unit.value)))


units_of_stage = constexpr_function(count_units)
"""The same for kernels."""


@gluon.jit
def load_units(stages, place, LAYOUT: gl.constexpr, S: gl.constexpr):
    """All units of one share of a stage."""
    units = ()
    for i in gl.static_range(units_of_stage(S)):
        units = units + (stages.index(place * units_of_stage(S) + i).load(LAYOUT),)
    return units


@gluon.jit
def run_values(units, step, COLUMN: gl.constexpr, S: gl.constexpr):
    """float32 scales or zero points of the runs that begin at a column of a stage."""
    UNIT: gl.constexpr = COLUMN // (S.group * S.per_unit) if units_of_stage(S) > 1 else 0
    group = (step * (S.blocks * S.block_k) + COLUMN) // S.group
    return scale_values(units[UNIT] >> (group % S.per_unit * (32 // S.per_unit)), S.scale)


@gluon.jit
def unpack_block(
    words, units, zero_units, step, COLUMN: gl.constexpr, S: gl.constexpr, WARPS: gl.constexpr
):
    """The numbers [N, 64] of the block that begins at a column of a stage."""
    N: gl.constexpr = words.shape[0]
    LAYOUT: gl.constexpr = words_layout(N, 16, WARPS)
    other = words
    if S.words == 32:
        words, other = _halves(words)
    words = gl.convert_layout(words, LAYOUT, assert_trivial=True)
    other = gl.convert_layout(other, LAYOUT, assert_trivial=True)
    scale = run_values(units, step, COLUMN, S)
    zero = scale
    if S.has_zero_point:
        zero = run_values(zero_units, step, COLUMN, S)
    scale_2 = scale
    zero_2 = zero
    if S.scales_per_block == 2:
        scale_2 = run_values(units, step, COLUMN + 32, S)
        if S.has_zero_point:
            zero_2 = run_values(zero_units, step, COLUMN + 32, S)
    return unpack_words_bf16x2(
        words,
        other,
        (scale, scale, scale_2, scale_2),
        (zero, zero, zero_2, zero_2),
        S.format,
        S.has_zero_point,
    )
