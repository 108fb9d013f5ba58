"""The grouped GEMM of MoE layers on weights that are dequantized as they are loaded.

Memory holds only the packed weights; tiles of them become numbers of the activations' dtype in
registers, and go from there to the matrix units. Hence the product is transposed: on Hopper it is
the left operand that may come from registers, and the side that needs 64 rows has weights, of
which there are enough, not tokens.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from moe_kernels.ops.gemm_programs import (
    FusedActivation,
    Pairs,
    activation_arguments,
    pairs_of_tile,
    routing_arguments,
    store_result,
    tile_of_program,
    weight_rows,
)
from moe_kernels.ops.programmatic_launch import launch_options, prefetch_rows, wait_for_previous
from moe_kernels.ops.unpack_weights import (
    raised_e8m0,
    scale_values,
    unpack_mxfp8,
    unpack_words,
    unpack_words_bf16x2,
)
from moe_kernels.quantization.words import BLOCK, WORD_FORMATS, words_of_block
from moe_kernels.tuning import TileConfig


class WeightTensors(NamedTuple):
    """One layer weight [E, N, K] as :func:`moe_kernels.layouts.convert_to_kernel_format` has it."""

    values: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None = None
    scale_2: torch.Tensor | None = None


@triton.jit
def _finished(product):
    """``product``, by way of nothing that the compiler knows, so that it is waited for.

    Hopper's matrix units work while the program goes on. Triton lets them do so into the next
    iteration, where the registers that they read weights from may be written already.
    """
    return tl.inline_asm_elementwise("", "=r,0", [product], tl.float32, is_pure=True, pack=1)


@triton.jit(do_not_specialize=["num_pairs", "num_experts"])
def _fused_moe_gemm_quantized_kernel(
    a_ptr,
    b_ptr,
    out_ptr,
    a_scale_ptr,
    b_scale_ptr,
    zero_point_ptr,
    row_scale_ptr,
    bias_ptr,
    sorted_token_ids_ptr,
    expert_ids_ptr,
    num_tokens_post_padded_ptr,
    topk_ids_ptr,
    expert_map_ptr,
    num_experts,
    N,
    K,
    width,
    stored_columns,
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
    stride_bsg,
    stride_rse,
    stride_rsn,
    limit,
    alpha,
    beta,
    situ_beta,
    situ_linear_beta,
    SORTED: tl.constexpr,
    HAS_EXPERT_MAP: tl.constexpr,
    SLOTS_ARE_EXPERTS: tl.constexpr,
    PAIRS: tl.constexpr,
    FORMAT: tl.constexpr,
    WORDS: tl.constexpr,
    PACKED_ARITHMETIC: tl.constexpr,
    NATIVE_MX: tl.constexpr,
    SCALE: tl.constexpr,
    PER_UNIT: tl.constexpr,
    ONE_UNIT: tl.constexpr,
    GROUP: tl.constexpr,
    SCALES_PER_BLOCK: tl.constexpr,
    DTYPE: tl.constexpr,
    HAS_A_SCALE: tl.constexpr,
    HAS_ZERO_POINT: tl.constexpr,
    HAS_ROW_SCALE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MASK_K: tl.constexpr,
    RUNS_OF_8: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    FORM: tl.constexpr,
    GATED: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HAS_LIMIT: tl.constexpr,
    HAS_SITU_LINEAR_BETA: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
    BLOCKS: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
    STAGES: tl.constexpr,
):
    tile_n, expert, num_rows, where = tile_of_program(
        sorted_token_ids_ptr,
        expert_ids_ptr,
        num_tokens_post_padded_ptr,
        topk_ids_ptr,
        expert_map_ptr,
        num_experts,
        num_pairs,
        N,
        SORTED,
        HAS_EXPERT_MAP,
        SLOTS_ARE_EXPERTS,
        PAIRS,
        FORM != "",
        PROGRAMMATIC,
        BLOCK_SIZE_M,
        BLOCK_SIZE_N,
        GROUP_SIZE_M,
    )
    if num_rows == 0:
        return
    n = weight_rows(tile_n, N, width, GATED and not INTERLEAVED, RUNS_OF_8, BLOCK_SIZE_N)
    b_rows = b_ptr + expert * stride_be + n.to(tl.int64) * stride_bn
    if FORM == "" and not SORTED:
        # What was asked for comes while the first GEMM ends.
        if PROGRAMMATIC:
            prefetch_rows(b_rows, stored_columns * (2 if WORDS else 1))
        wait_for_previous(PROGRAMMATIC)
    scale_units = expert * stride_bse + n
    num_tiles_k = tl.cdiv(K, BLOCK_SIZE_K * BLOCKS)
    MIDDLE: tl.constexpr = 8.0 if FORMAT == "int4" else 128.0

    for start in range(0, BLOCK_SIZE_M if SORTED else num_rows, BLOCK_SIZE_M):
        pair, pair_mask = pairs_of_tile(
            start, num_rows, where, sorted_token_ids_ptr, num_pairs, SORTED, PAIRS, BLOCK_SIZE_M
        )
        row = (pair // top_k).to(tl.int64)
        a_columns = a_ptr + row[None, :] * stride_am
        accumulator = tl.zeros((BLOCK_SIZE_N, BLOCK_SIZE_M), dtype=tl.float32)
        for tile_k in tl.range(0, num_tiles_k, num_stages=STAGES):
            if ONE_UNIT:
                unit = tile_k * (BLOCKS * BLOCK_SIZE_K) // (GROUP * PER_UNIT) * stride_bsg
                packed_scales = tl.load(b_scale_ptr + scale_units + unit)
                if HAS_ZERO_POINT:
                    packed_zero_points = tl.load(zero_point_ptr + scale_units + unit)
            for block in tl.static_range(BLOCKS):
                first = (tile_k * BLOCKS + block) * BLOCK_SIZE_K
                k = first + tl.arange(0, BLOCK_SIZE_K)
                mask = pair_mask[None, :]
                if MASK_K:
                    mask = mask & (k < K)[:, None]
                a = tl.load(a_columns + k[:, None] * stride_ak, mask=mask, other=0.0)
                stored = first // BLOCK_SIZE_K * WORDS + tl.arange(0, 16) if WORDS else k
                if MASK_K:
                    b_mask = (stored < stored_columns)[None, :]
                    b = tl.load(b_rows[:, None] + stored[None, :], mask=b_mask, other=0)
                    other = b
                    if WORDS == 32:
                        other = tl.load(
                            b_rows[:, None] + stored[None, :] + 16, mask=b_mask, other=0
                        )
                else:
                    b = tl.load(b_rows[:, None] + stored[None, :])
                    other = b
                    if WORDS == 32:
                        other = tl.load(b_rows[:, None] + stored[None, :] + 16)

                if NATIVE_MX:
                    group = first // 32 + tl.arange(0, BLOCK_SIZE_K // 32)
                    inside = group < num_groups
                    a_scale = tl.load(
                        a_scale_ptr + row[:, None] * stride_asm + group[None, :] * stride_ask,
                        mask=pair_mask[:, None] & inside[None, :],
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
                    scales = ()
                    zero_points = ()
                    for part_k in tl.static_range(SCALES_PER_BLOCK):
                        group = (first + part_k * (BLOCK_SIZE_K // SCALES_PER_BLOCK)) // GROUP
                        if MASK_K:
                            group = tl.minimum(group, num_groups - 1)
                        if not ONE_UNIT:
                            unit = group // PER_UNIT * stride_bsg
                            packed_scales = tl.load(b_scale_ptr + scale_units + unit)
                            if HAS_ZERO_POINT:
                                packed_zero_points = tl.load(zero_point_ptr + scale_units + unit)
                        shift = group % PER_UNIT * (32 // PER_UNIT)
                        if PACKED_ARITHMETIC and FORMAT == "mxfp4":
                            scale = scale_values(raised_e8m0(packed_scales) >> shift, SCALE)
                        else:
                            scale = scale_values(packed_scales >> shift, SCALE)
                        if HAS_ZERO_POINT:
                            zero_point = scale_values(packed_zero_points >> shift, SCALE)
                        else:
                            zero_point = tl.full((BLOCK_SIZE_N,), MIDDLE, tl.float32)
                        for _ in tl.static_range(4 // SCALES_PER_BLOCK):
                            scales = scales + (scale,)  # type: ignore[assignment] # noqa: RUF005
                            zero_points = zero_points + (zero_point,)  # type: ignore[assignment] # noqa: RUF005
                    if PACKED_ARITHMETIC:
                        weight = unpack_words_bf16x2(
                            b, other, scales, zero_points, FORMAT, HAS_ZERO_POINT
                        )
                    elif WORDS:
                        weight = unpack_words(b, other, scales, zero_points, FORMAT, DTYPE)
                    else:
                        weight = unpack_mxfp8(b, scale, DTYPE)
                    accumulator = tl.dot(weight, a, accumulator, input_precision=INPUT_PRECISION)
                    if PROGRAMMATIC:
                        accumulator = _finished(accumulator)

        accumulator = tl.trans(accumulator)
        if HAS_A_SCALE:
            accumulator *= tl.load(a_scale_ptr)
        if PACKED_ARITHMETIC and FORMAT == "mxfp4":
            accumulator *= 18446744073709551616.0  # 2^64, which numbers and raised scales lack
        if HAS_ROW_SCALE:
            row_scale = tl.load(row_scale_ptr + expert * stride_rse + n * stride_rsn)
            accumulator *= row_scale[None, :]
        if HAS_BIAS:
            accumulator += tl.load(bias_ptr + expert * N + n).to(tl.float32)[None, :]
        store_result(
            accumulator,
            out_ptr,
            pair,
            pair_mask,
            tile_n,
            width,
            limit,
            alpha,
            beta,
            situ_beta,
            situ_linear_beta,
            FORM,
            GATED,
            INTERLEAVED,
            HAS_LIMIT,
            HAS_SITU_LINEAR_BETA,
            True,
            BLOCK_SIZE_M,
            BLOCK_SIZE_N,
        )


def fused_moe_gemm_quantized(
    a: torch.Tensor,
    b: WeightTensors,
    weight_format: str,
    pairs: Pairs,
    num_pairs: int,
    top_k: int,
    config: TileConfig,
    out_dtype: torch.dtype,
    *,
    a_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    activation: FusedActivation | None = None,
    native_mx: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """``out[p] = activation(a[p // top_k] @ b[expert of p].T (+ bias))`` for every pair p.

    a: [rows, K], any strides; a row per token (``top_k`` pairs each), or per pair (``top_k`` 1).
    Of ``out_dtype``, a_scale None or float32 [1]; or, with ``native_mx``, which multiplies mxfp8
    by mxfp8 with the hardware's scaled products, e4m3 with a_scale e8m0 [rows, ceil(K / 32)].
    b: of ``weight_format``, in the words of :mod:`moe_kernels.quantization.words`, mxfp8 as bytes,
    contiguous in the last dimension. Scales and zero points in units of 32 bits,
    [E, units, N, groups of a unit], contiguous. Groups of a multiple of 16 columns, or one of all.
    scale_2: [E], or [E, N, 1].
    pairs, config, activation, out: as for :func:`moe_kernels.ops.fused_moe_gemm.fused_moe_gemm`;
    ``config.block_k`` counts columns, ``config.block_n`` rows of the weight.
    bias: [E, N], contiguous.

    Returns [num_pairs, N] in ``out_dtype``, accumulated in float32; [num_pairs, N / 2] after a
    gated activation. Rows of pairs without an expert are not written. Raises ValueError for groups
    of other sizes.
    """
    values, scale, zero_point, row_scale = b
    num_local_experts, n, stored_columns = values.shape
    k = a.shape[1]
    launch = activation_arguments(activation)
    width = n // 2 if launch.constants["GATED"] else n
    if out is None:
        out = torch.empty(num_pairs, width, dtype=out_dtype, device=a.device)
    _, units, _, per_unit = scale.shape
    group = _FLOAT_GROUPS.get(weight_format, k // (units * per_unit))
    num_groups = triton.cdiv(k, group)
    in_words = weight_format in WORD_FORMATS
    block_k, scales_per_block = _block(group, num_groups, in_words, config.block_k)
    blocks = max(1, config.block_k // block_k)
    if in_words:
        values, stored_columns = values.view(torch.int16), stored_columns // 2
    num_tiles_n = triton.cdiv(n, config.block_n)
    routing = routing_arguments(pairs, num_pairs, num_local_experts, num_tiles_n)
    _fused_moe_gemm_quantized_kernel[routing.grid](
        a,
        _bits(values),
        out,
        a_scale,
        scale if native_mx else scale.view(torch.int32),
        None if zero_point is None else zero_point.view(torch.int32),
        row_scale,
        bias,
        *routing.positional,
        n,
        k,
        width,
        stored_columns,
        num_groups,
        num_pairs,
        top_k,
        *a.stride(),
        *((0, 0) if a_scale is None or a_scale.dim() < 2 else a_scale.stride()),
        *values.stride()[:2],
        units * n,
        n,
        *_row_strides(row_scale),
        *launch.positional,
        **routing.constants,
        FORMAT=weight_format,
        WORDS=words_of_block(weight_format) if in_words else 0,
        PACKED_ARITHMETIC=(
            weight_format in ("int4", "mxfp4", "uint8")
            and out_dtype == torch.bfloat16
            and scales_per_block <= 2
            and _has_packed_arithmetic(a.device)
        ),
        NATIVE_MX=native_mx,
        SCALE=_SCALES[scale.dtype],
        PER_UNIT=per_unit,
        # Whether all columns of an iteration have their scales in one unit.
        ONE_UNIT=not native_mx and (num_groups == 1 or per_unit * group % (block_k * blocks) == 0),
        GROUP=group,
        SCALES_PER_BLOCK=scales_per_block,
        DTYPE=_TRITON_DTYPES[out_dtype],
        HAS_A_SCALE=a_scale is not None and not native_mx,
        HAS_ZERO_POINT=zero_point is not None,
        HAS_ROW_SCALE=row_scale is not None,
        HAS_BIAS=bias is not None,
        MASK_K=k % (block_k * blocks) != 0,
        RUNS_OF_8=width % 8 == 0,
        INPUT_PRECISION="ieee" if out_dtype == torch.float32 else "tf32",
        **launch.constants,
        BLOCK_SIZE_M=config.block_m,
        BLOCK_SIZE_N=config.block_n,
        BLOCK_SIZE_K=block_k,
        BLOCKS=blocks,
        GROUP_SIZE_M=config.group_m,
        STAGES=config.num_stages,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **launch_options(a.device),
    )
    return out


_FLOAT_GROUPS = {"mxfp4": 32, "mxfp8": 32, "nvfp4": 16}
_SCALES = {
    torch.uint8: "e8m0",
    torch.float8_e4m3fn: "e4m3",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
}
_TRITON_DTYPES = {
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float32: tl.float32,
}


def _block(group: int, num_groups: int, in_words: bool, wanted: int) -> tuple[int, int]:
    """Columns of one product, and in how many groups they lie: 1, or in words 2 or 4."""
    widest = BLOCK if in_words else min(wanted, 128)
    common = widest if num_groups == 1 else math.gcd(group, widest)
    if common < 16:
        raise ValueError(
            f"groups of {group} columns have no kernel; expected a multiple of 16, or one of all"
        )
    return (BLOCK, BLOCK // common) if in_words else (common, 1)


@functools.cache
def _has_packed_arithmetic(device: torch.device) -> bool:
    """Whether the device has the instructions of ``unpack_words_bf16x2``."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _row_strides(row_scale: torch.Tensor | None) -> tuple[int, int]:
    if row_scale is None:
        return 0, 0
    return (
        row_scale.stride(0) if row_scale.numel() > 1 else 0,
        row_scale.stride(1) if row_scale.dim() > 1 else 0,
    )


def _bits(x: torch.Tensor) -> torch.Tensor:
    """FP8 tensors as their bits: the kernel decodes them itself, on every GPU alike."""
    return x.view(torch.uint8) if x.dtype == torch.float8_e4m3fn else x
