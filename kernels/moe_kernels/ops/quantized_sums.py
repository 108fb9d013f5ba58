"""How the GEMM on packed weights sums up a tile's products, of what it unpacks in registers.

Hence the product is transposed: on Hopper it is the left operand that may come from registers, and
the side that needs 64 rows has weights, of which there are enough, not tokens.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from moe_kernels.ops.gemm_programs import Settings
from moe_kernels.ops.unpack_weights import restored_sums, unpack_tile


@triton.jit
def _finished(product):
    """``product``, by way of nothing that the compiler knows, so that it is waited for.

    Hopper's matrix units work while the program goes on. Triton lets them do so into the next
    iteration, where the registers that they read weights from may be written already.
    """
    return tl.inline_asm_elementwise("", "=r,0", [product], tl.float32, is_pure=True, pack=1)


@dataclass(frozen=True, eq=False)
class QuantizedSettings(Settings):
    """What the GEMM's kernels are compiled for. ``block_k``: columns of one product."""

    blocks: int
    """Products of an iteration."""
    format: str
    words: int
    """Words of a row in a product, 0 if values are in bytes."""
    packed_arithmetic: bool
    """Whether two numbers are unpacked at a time."""
    native_mx: bool
    scale: str
    """The scales' dtype."""
    per_unit: int
    """Scales of a unit."""
    one_unit: bool
    """Whether all columns of an iteration have their scales in one unit."""
    group: int
    scales_per_block: int
    dtype: tl.dtype
    """Of A."""
    has_a_scale: bool
    has_zero_point: bool
    has_row_scale: bool


@triton.jit
def sums_of_packed(row, row_mask, operands, S: tl.constexpr, ROWS: tl.constexpr):
    """See :func:`moe_kernels.ops.gemm_programs.compute_tile`."""
    a_ptr, stride_am, stride_ak, a_scale_ptr, stride_asm, stride_ask = operands[:6]
    K, stored_columns, num_groups, b_rows, row_scales = operands[6:11]
    weight_scales = operands[11:]
    b_scale_ptr, zero_point_ptr, scale_units, stride_bsg = weight_scales
    a_columns = a_ptr + row[None, :] * stride_am
    accumulator = tl.zeros((S.block_n, ROWS), dtype=tl.float32)
    for tile_k in tl.range(0, tl.cdiv(K, S.block_k * S.blocks), num_stages=S.stages):
        scale_unit = 0
        zero_unit = 0
        if S.one_unit:
            unit = tile_k * (S.blocks * S.block_k) // (S.group * S.per_unit) * stride_bsg
            scale_unit = tl.load(b_scale_ptr + scale_units + unit)
            if S.has_zero_point:
                zero_unit = tl.load(zero_point_ptr + scale_units + unit)
        for block in tl.static_range(S.blocks):
            first = (tile_k * S.blocks + block) * S.block_k
            k = first + tl.arange(0, S.block_k)
            mask = row_mask[None, :]
            if S.mask_k:
                mask = mask & (k < K)[:, None]
            a = tl.load(a_columns + k[:, None] * stride_ak, mask=mask, other=0.0)
            stored = first // S.block_k * S.words + tl.arange(0, 16) if S.words else k
            b_ptrs = b_rows[:, None] + stored[None, :]
            b_mask = (stored < stored_columns)[None, :] if S.mask_k else None
            b = tl.load(b_ptrs, mask=b_mask, other=0 if S.mask_k else None)
            other = b
            if S.words == 32:
                other = tl.load(b_ptrs + 16, mask=b_mask, other=0 if S.mask_k else None)
            if S.native_mx:
                group = first // 32 + tl.arange(0, S.block_k // 32)
                inside = group < num_groups
                a_scale = tl.load(
                    a_scale_ptr + row[:, None] * stride_asm + group[None, :] * stride_ask,
                    mask=row_mask[:, None] & inside[None, :],
                    other=0,
                )
                b_scale_ptrs = (
                    b_scale_ptr
                    + (scale_units[:, None] + group[None, :] // 4 * stride_bsg) * 4
                    + group[None, :] % 4
                )
                b_scale = tl.load(b_scale_ptrs, mask=inside[None, :], other=0)
                accumulator = tl.dot_scaled(b, b_scale, "e4m3", a, a_scale, "e4m3", accumulator)
            else:
                weight = unpack_tile(
                    first, b, other, (scale_unit, zero_unit), weight_scales, num_groups, S
                )
                accumulator = tl.dot(weight, a, accumulator, input_precision=S.input_precision)
                if S.programmatic:  # the GPUs that have it multiply while the program goes on
                    accumulator = _finished(accumulator)

    accumulator = tl.trans(accumulator)
    if S.has_a_scale:
        accumulator *= tl.load(a_scale_ptr)
    if S.packed_arithmetic:
        accumulator = restored_sums(accumulator, S.format)
    if S.has_row_scale:
        accumulator *= tl.load(row_scales)[None, :]
    return accumulator
