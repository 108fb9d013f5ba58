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

from moe_kernels.ops.activation import activate
from moe_kernels.ops.gemm_programs import (
    FusedActivation,
    Pairs,
    activation_arguments,
    routing_arguments,
    tile_of_program,
)
from moe_kernels.ops.programmatic_launch import launch_options, wait_for_previous
from moe_kernels.ops.routing import pairs_of_ranks, pairs_of_slot
from moe_kernels.ops.unpack_weights import (
    scale_values,
    unpack_bytes,
    unpack_words,
    unpack_words_bf16x2,
)
from moe_kernels.quantization.words import BLOCK, WORD_FORMATS
from moe_kernels.tuning import MAX_PACKED_BLOCK_M, TileConfig


class WeightTensors(NamedTuple):
    """One layer weight [E, N, K] as :func:`moe_kernels.layouts.convert_to_kernel_format` has it."""

    values: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None = None
    scale_2: torch.Tensor | None = None


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
    IN_WORDS: tl.constexpr,
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
    if SORTED:
        wait_for_previous(PROGRAMMATIC)
        tile_m, tile_n, exists = tile_of_program(
            num_tokens_post_padded_ptr, N, BLOCK_SIZE_M, BLOCK_SIZE_N, GROUP_SIZE_M
        )
        if not exists:
            return
        expert = tl.load(expert_ids_ptr + tile_m)
        num_rows = BLOCK_SIZE_M
    else:
        tile_n = tl.program_id(0)
        # The ids were there before the first GEMM started; it wrote A if this is the second.
        if FORM != "":
            wait_for_previous(PROGRAMMATIC)
        expert, num_rows, rank = pairs_of_slot(
            tl.program_id(1),
            topk_ids_ptr,
            num_pairs,
            expert_map_ptr,
            num_experts,
            HAS_EXPERT_MAP,
            SLOTS_ARE_EXPERTS,
            PAIRS,
        )
        if FORM == "":
            wait_for_previous(PROGRAMMATIC)
    expert = expert.to(tl.int64)

    # Rows of the weight. Where gate and up are apart, of 16 rows 8 are a gate's and 8 the up's of
    # the same columns, which one thread has both of. Rows come in runs of 8; those out of range
    # read the first run, and their results are not stored.
    index = tl.arange(0, BLOCK_SIZE_N)
    if GATED and not INTERLEAVED:
        column = tile_n * (BLOCK_SIZE_N // 2) + index // 16 * 8 + index % 8
        n = index % 16 // 8 * width + tl.where(column < width, column, index % 8)
    else:
        column = tile_n * BLOCK_SIZE_N + index
        n = tl.where(column < N, column, index % 8)
    n = tl.max_contiguous(tl.multiple_of(n, 8), 8) if RUNS_OF_8 else tl.where(n < N, n, 0)
    b_rows = b_ptr + expert * stride_be + n[:, None].to(tl.int64) * stride_bn
    scale_units = expert * stride_bse + n
    num_tiles_k = tl.cdiv(K, BLOCK_SIZE_K * BLOCKS)
    MIDDLE: tl.constexpr = 8.0 if FORMAT == "int4" else 128.0

    for start in range(0, num_rows, BLOCK_SIZE_M):
        rows = start + tl.arange(0, BLOCK_SIZE_M)
        if SORTED:
            pair = tl.load(sorted_token_ids_ptr + tile_m * BLOCK_SIZE_M + rows)
            pair_mask = pair < num_pairs
        else:
            pair = pairs_of_ranks(rank, rows, PAIRS)
            pair_mask = rows < num_rows
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
                a = tl.load(a_columns + k[:, None] * stride_ak, mask=mask, other=0)
                stored = first // 4 + tl.arange(0, BLOCK_SIZE_K // 4) if IN_WORDS else k
                if MASK_K:
                    b_mask = (stored < stored_columns)[None, :]
                    b = tl.load(b_rows + stored[None, :], mask=b_mask, other=0)
                else:
                    b = tl.load(b_rows + stored[None, :])

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
                        scale = scale_values(packed_scales >> shift, SCALE)
                        if HAS_ZERO_POINT:
                            zero_point = scale_values(packed_zero_points >> shift, SCALE)
                        else:
                            zero_point = tl.full((BLOCK_SIZE_N,), MIDDLE, tl.float32)
                        for _ in tl.static_range(4 // SCALES_PER_BLOCK):
                            scales = scales + (scale,)  # type: ignore[assignment] # noqa: RUF005
                            zero_points = zero_points + (zero_point,)  # type: ignore[assignment] # noqa: RUF005
                    if PACKED_ARITHMETIC:
                        weight = unpack_words_bf16x2(b, scales, zero_points, FORMAT)
                    elif IN_WORDS:
                        weight = unpack_words(b, scales, zero_points, FORMAT, DTYPE)
                    else:
                        weight = unpack_bytes(b, scale, zero_point, FORMAT, DTYPE)
                    accumulator = tl.dot(weight, a, accumulator, input_precision=INPUT_PRECISION)

        if HAS_A_SCALE:
            accumulator *= tl.load(a_scale_ptr)
        if PACKED_ARITHMETIC and FORMAT == "mxfp4":
            accumulator *= 18446744073709551616.0  # 2^64, which its scales lack
        if HAS_ROW_SCALE:
            row_scale = tl.load(row_scale_ptr + expert * stride_rse + n * stride_rsn)
            accumulator *= row_scale[:, None]
        if HAS_BIAS:
            accumulator += tl.load(bias_ptr + expert * N + n).to(tl.float32)[:, None]
        if FORM != "":
            # What the result is quantized to depends on what the GEMM's is stored as.
            accumulator = accumulator.to(out_ptr.dtype.element_ty).to(tl.float32)
        if GATED:
            if INTERLEAVED:
                pieces = tl.reshape(accumulator, (BLOCK_SIZE_N // 2, 2, BLOCK_SIZE_M))
                gate, up = tl.split(tl.permute(pieces, (0, 2, 1)))
            else:
                halves = tl.reshape(accumulator, (BLOCK_SIZE_N // 16, 2, 8, BLOCK_SIZE_M))
                gate, up = tl.split(tl.permute(halves, (0, 2, 3, 1)))
            gate = tl.reshape(gate, (BLOCK_SIZE_N // 2, BLOCK_SIZE_M))
            up = tl.reshape(up, (BLOCK_SIZE_N // 2, BLOCK_SIZE_M))
        else:
            gate = accumulator
            up = accumulator
        if FORM == "":
            value = gate
        else:
            value = activate(
                gate,
                up,
                limit,
                alpha,
                beta,
                situ_beta,
                situ_linear_beta,
                FORM,
                GATED,
                HAS_LIMIT,
                HAS_SITU_LINEAR_BETA,
            )
        part_n: tl.constexpr = BLOCK_SIZE_N // 2 if GATED else BLOCK_SIZE_N
        out_column = tile_n * part_n + tl.arange(0, part_n)
        tl.store(
            out_ptr + pair[None, :].to(tl.int64) * width + out_column[:, None],
            value.to(out_ptr.dtype.element_ty),
            mask=pair_mask[None, :] & (out_column < width)[:, None],
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
    b: of ``weight_format`` (int4, mxfp4, nvfp4: words; uint8, mxfp8: bytes), contiguous in the last
    dimension. Scales and zero points in units of 32 bits, [E, units, N, groups of a unit],
    contiguous. Groups of a multiple of 16 columns, or one of all. scale_2: [E], or [E, N, 1].
    pairs, config, activation, out: as for :func:`moe_kernels.ops.fused_moe_gemm.fused_moe_gemm`;
    ``config.block_k`` counts columns, ``config.block_n`` rows of the weight.
    bias: [E, N], contiguous.

    Returns [num_pairs, N] in ``out_dtype``, accumulated in float32; [num_pairs, N / 2] after a
    gated activation. Rows of pairs without an expert are not written. Raises ValueError for groups
    of other sizes, and tiles of more than MAX_PACKED_BLOCK_M rows.
    """
    if config.block_m > MAX_PACKED_BLOCK_M:
        raise ValueError(
            f"a tile on packed weights has at most {MAX_PACKED_BLOCK_M} rows, got {config.block_m}"
        )
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
        IN_WORDS=in_words,
        PACKED_ARITHMETIC=(
            weight_format in ("int4", "mxfp4")
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
