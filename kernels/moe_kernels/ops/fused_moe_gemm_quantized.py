"""The grouped GEMM of MoE layers on weights that are dequantized as they are loaded.

Tiles of weights become numbers of the activations' dtype in registers, so that memory holds only
the packed weights. Values, zero points and group scales are exact before that one rounding;
scales of whole rows multiply the float32 sums. INT8 weights with INT8 activations are multiplied
as integers.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

BLOCK_M = 16
"""Rows of a tile where each expert has few pairs; the smallest that tensor cores take."""
_MANY_PAIRS_BLOCK_M = 64


class WeightTensors(NamedTuple):
    """One layer weight in a format of :mod:`moe_kernels.quantization.schemes`, [E, N, K]."""

    values: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None = None
    scale_2: torch.Tensor | None = None


@triton.jit
def _e2m1(code):
    """The numbers of 4-bit codes: sign, 2 bits of exponent, 1 of mantissa."""
    magnitude = code & 7
    # 0 0.5 1 1.5 | 2 3 4 6
    low = magnitude.to(tl.float32) * 0.5
    exponent = (magnitude >> 1).to(tl.int32)
    fraction = 1.0 + 0.5 * (magnitude & 1).to(tl.float32)
    high = fraction * (1 << tl.maximum(exponent - 1, 0)).to(tl.float32)
    value = tl.where(magnitude < 4, low, high)
    return tl.where(code >= 8, -value, value)


@triton.jit
def _e4m3(bits):
    """The numbers of e4m3 bits (uint8), NaN aside: moved to where float32 has them."""
    bits = bits.to(tl.int32)
    moved = ((bits & 0x80) << 24) | ((bits & 0x7F) << 20)
    return moved.to(tl.float32, bitcast=True) * 1.329227995784916e36  # 2^120, of the biases


@triton.jit
def _e8m0(bits):
    """The powers of two of e8m0 bits (uint8); 2^-127 becomes 0."""
    return (bits.to(tl.int32) << 23).to(tl.float32, bitcast=True)


@triton.jit
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
    N,
    K,
    num_pairs,
    stride_am,
    stride_ak,
    stride_be,
    stride_bn,
    stride_bk,
    stride_asm,
    stride_ask,
    stride_bse,
    stride_bsn,
    stride_bsk,
    stride_rse,
    stride_rsn,
    TOP_K: tl.constexpr,
    FORMAT: tl.constexpr,
    GROUP: tl.constexpr,
    INTEGER_DOT: tl.constexpr,
    HAS_A_SCALE: tl.constexpr,
    A_MXFP8: tl.constexpr,
    NATIVE_MX: tl.constexpr,
    COMPUTE_TYPE: tl.constexpr,
    HAS_ZERO_POINT: tl.constexpr,
    HAS_ROW_SCALE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
):
    PACKED: tl.constexpr = FORMAT == "int4" or FORMAT == "mxfp4" or FORMAT == "nvfp4"
    num_tiles_m = tl.load(num_tokens_post_padded_ptr) // BLOCK_SIZE_M
    num_tiles_n = tl.cdiv(N, BLOCK_SIZE_N)
    tile = tl.program_id(0)
    if tile >= num_tiles_m * num_tiles_n:
        return
    # Neighbours share an expert's weights: row tiles vary first.
    tile_m = tile % num_tiles_m
    tile_n = tile // num_tiles_m

    pair = tl.load(sorted_token_ids_ptr + tile_m * BLOCK_SIZE_M + tl.arange(0, BLOCK_SIZE_M))
    pair_mask = pair < num_pairs
    row = (pair // TOP_K).to(tl.int64)
    expert = tl.load(expert_ids_ptr + tile_m).to(tl.int64)
    n = tile_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    n_mask = n < N
    # Out-of-range columns read column 0; their results are not stored.
    n_safe = tl.where(n_mask, n, 0).to(tl.int64)

    a_rows = a_ptr + row[:, None] * stride_am
    b_rows = b_ptr + expert * stride_be + n_safe[:, None] * stride_bn
    scale_rows = expert * stride_bse + n_safe[:, None] * stride_bsn
    accumulator = tl.zeros(
        (BLOCK_SIZE_M, BLOCK_SIZE_N), dtype=tl.int32 if INTEGER_DOT else tl.float32
    )

    for start in range(0, K, BLOCK_SIZE_K):
        k = start + tl.arange(0, BLOCK_SIZE_K)
        k_mask = k < K
        a = tl.load(
            a_rows + k[None, :] * stride_ak, mask=pair_mask[:, None] & k_mask[None, :], other=0
        )
        # Weights as [N, K] tiles, so that neighbours in a byte are neighbours in a tile.
        if PACKED:
            byte = start // 2 + tl.arange(0, BLOCK_SIZE_K // 2)
            packed = tl.load(
                b_rows + byte[None, :] * stride_bk, mask=(byte < (K + 1) // 2)[None, :], other=0
            )
            stored = tl.interleave(packed & 0xF, packed >> 4)
        else:
            stored = tl.load(b_rows + k[None, :] * stride_bk, mask=k_mask[None, :], other=0)

        if INTEGER_DOT:
            accumulator = tl.dot(a, tl.trans(stored), accumulator, out_dtype=tl.int32)
        elif NATIVE_MX:
            group = start // GROUP + tl.arange(0, BLOCK_SIZE_K // GROUP)
            group_mask = group < tl.cdiv(K, GROUP)
            a_scale = tl.load(
                a_scale_ptr + row[:, None] * stride_asm + group[None, :] * stride_ask,
                mask=pair_mask[:, None] & group_mask[None, :],
                other=0,
            )
            b_scale = tl.load(
                b_scale_ptr + scale_rows + group[None, :] * stride_bsk,
                mask=group_mask[None, :],
                other=0,
            )
            accumulator = tl.dot_scaled(
                a, a_scale, "e4m3", tl.trans(stored), b_scale, "e4m3", accumulator
            )
        else:
            group = (k // GROUP)[None, :]
            groups = scale_rows + group * stride_bsk
            scale = tl.load(b_scale_ptr + groups, mask=k_mask[None, :], other=0)
            if FORMAT == "int4" or FORMAT == "uint8":
                if HAS_ZERO_POINT:
                    zero_point = tl.load(zero_point_ptr + groups, mask=k_mask[None, :], other=0)
                    zero_point = zero_point.to(tl.float32)
                else:
                    zero_point = 8.0 if FORMAT == "int4" else 128.0
                b = (stored.to(tl.float32) - zero_point) * scale.to(tl.float32)
            elif FORMAT == "int8":
                b = stored.to(tl.float32) * scale.to(tl.float32)
            elif FORMAT == "mxfp4":
                b = _e2m1(stored) * _e8m0(scale)
            elif FORMAT == "nvfp4":
                b = _e2m1(stored) * _e4m3(scale)
            else:
                b = _e4m3(stored) * _e8m0(scale)
            if A_MXFP8:
                a_scale = tl.load(
                    a_scale_ptr + row[:, None] * stride_asm + group * stride_ask,
                    mask=pair_mask[:, None] & k_mask[None, :],
                    other=0,
                )
                a = (_e4m3(a) * _e8m0(a_scale)).to(COMPUTE_TYPE)
            accumulator = tl.dot(
                a, tl.trans(b.to(COMPUTE_TYPE)), accumulator, input_precision=INPUT_PRECISION
            )

    result = accumulator.to(tl.float32)
    if HAS_A_SCALE:
        a_scale = tl.load(a_scale_ptr + row * stride_asm, mask=pair_mask, other=0.0)
        result *= a_scale[:, None]
    if HAS_ROW_SCALE:
        row_scale = tl.load(row_scale_ptr + expert * stride_rse + n_safe * stride_rsn)
        result *= row_scale[None, :]
    if HAS_BIAS:
        result += tl.load(bias_ptr + expert * N + n_safe).to(tl.float32)[None, :]
    out_ptrs = out_ptr + pair[:, None].to(tl.int64) * N + n[None, :]
    tl.store(
        out_ptrs,
        result.to(out_ptr.dtype.element_ty),
        mask=pair_mask[:, None] & n_mask[None, :],
    )


def block_m(num_pairs: int, num_local_experts: int) -> int:
    """The rows of a tile, to which pairs are to be aligned."""
    return BLOCK_M if num_pairs <= 16 * num_local_experts else _MANY_PAIRS_BLOCK_M


def fused_moe_gemm_quantized(
    a: torch.Tensor,
    b: WeightTensors,
    weight_format: str,
    sorted_token_ids: torch.Tensor,
    expert_ids: torch.Tensor,
    num_tokens_post_padded: torch.Tensor,
    num_pairs: int,
    top_k: int,
    block_size_m: int,
    out_dtype: torch.dtype,
    *,
    a_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    native_mx: bool = False,
) -> torch.Tensor:
    """``out[p] = a[p // top_k] @ b[expert of p].T (+ bias)`` for every pair p with an expert.

    a: [rows, K], any strides; a row per token (``top_k`` pairs each), or per pair (``top_k`` 1).
    Of ``out_dtype``, a_scale None or float32 [1]; int8 with a_scale float32 [1] or [rows, 1], for
    int8 weights scaled per tensor or channel; or e4m3 with a_scale e8m0 [rows, ceil(K / 32)], for
    mxfp8 weights.
    b: values, scales, zero points of ``weight_format``, any strides, zero points with those of the
    scales. scale_2: [E], or [E, N, 1].
    sorted_token_ids, expert_ids, num_tokens_post_padded: of
    :func:`moe_kernels.ops.moe_align_block_size.moe_align_block_size` with ``block_size_m``.
    bias: [E, N], contiguous.
    native_mx: multiply mxfp8 by mxfp8 with the hardware's scaled products.

    Returns [num_pairs, N] in ``out_dtype``, accumulated in float32, or int32 for int8 activations.
    Rows of pairs without an expert are not written.
    """
    n, k = b.values.shape[1], a.shape[1]
    out = torch.empty(num_pairs, n, dtype=out_dtype, device=a.device)
    integer_dot = a.dtype == torch.int8
    a_mxfp8 = a.dtype == torch.float8_e4m3fn
    values, scale, zero_point, row_scale = b
    if integer_dot:
        row_scale = scale
    row_strides = (0, 0)
    if row_scale is not None:
        row_strides = (
            row_scale.stride(0) if row_scale.numel() > 1 else 0,
            row_scale.stride(1) if row_scale.dim() > 1 else 0,
        )
    group = {"mxfp4": 32, "mxfp8": 32, "nvfp4": 16}.get(weight_format)
    if group is None:
        group = k if integer_dot else k // scale.shape[2]
    scale_strides = (0, 0, 0) if integer_dot else scale.stride()
    if a_scale is None or a_scale.numel() == 1:
        a_scale_strides = (0, 0)
    else:
        a_scale_strides = (a_scale.stride(0), a_scale.stride(1))
    block_n = 64 if block_size_m <= BLOCK_M else 128
    block_k = 128 if values.dtype == torch.int8 or block_size_m <= BLOCK_M else 64
    if out_dtype == torch.float32:
        block_k = 32
    grid = (expert_ids.shape[0] * triton.cdiv(n, block_n),)
    _fused_moe_gemm_quantized_kernel[grid](
        _bits(a),
        _bits(values),
        out,
        _bits(a_scale),
        _bits(scale),
        zero_point,
        row_scale,
        bias,
        sorted_token_ids,
        expert_ids,
        num_tokens_post_padded,
        n,
        k,
        num_pairs,
        *a.stride(),
        *values.stride(),
        *a_scale_strides,
        *scale_strides,
        *row_strides,
        TOP_K=top_k,
        FORMAT=weight_format,
        GROUP=group,
        INTEGER_DOT=integer_dot,
        HAS_A_SCALE=a_scale is not None and not a_mxfp8,
        A_MXFP8=a_mxfp8,
        NATIVE_MX=native_mx,
        COMPUTE_TYPE=_TRITON_DTYPES[out_dtype],
        HAS_ZERO_POINT=zero_point is not None,
        HAS_ROW_SCALE=row_scale is not None,
        HAS_BIAS=bias is not None,
        INPUT_PRECISION="ieee" if out_dtype == torch.float32 else "tf32",
        BLOCK_SIZE_M=block_size_m,
        BLOCK_SIZE_N=block_n,
        BLOCK_SIZE_K=block_k,
        num_warps=4 if block_size_m <= BLOCK_M else 8,
        num_stages=3,
    )
    return out


_TRITON_DTYPES = {
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float32: tl.float32,
}


def _bits(x: torch.Tensor | None) -> torch.Tensor | None:
    """FP8 tensors as their bits: the kernel decodes them itself, on every GPU alike."""
    return x.view(torch.uint8) if x is not None and x.dtype == torch.float8_e4m3fn else x
