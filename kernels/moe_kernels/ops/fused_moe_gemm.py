"""The grouped GEMM of MoE layers: every (token, expert) pair's row times its expert's weight."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

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
from moe_kernels.tuning import TileConfig


@triton.jit
def _along_rows(x, TRANSPOSED: tl.constexpr):
    """A number for each row of A, as the sums have rows."""
    return x[None, :] if TRANSPOSED else x[:, None]


@triton.jit
def _outer(x, y, TRANSPOSED: tl.constexpr):
    """The products of a number for each row of A and one for each of B."""
    return y[:, None] * x[None, :] if TRANSPOSED else x[:, None] * y[None, :]


@triton.jit(do_not_specialize=["num_pairs", "num_experts"])
def _fused_moe_gemm_kernel(
    a_ptr,
    b_ptr,
    out_ptr,
    a_scale_ptr,
    b_scale_ptr,
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
    num_pairs,
    top_k,
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
    limit,
    alpha,
    beta,
    situ_beta,
    situ_linear_beta,
    SORTED: tl.constexpr,
    HAS_EXPERT_MAP: tl.constexpr,
    SLOTS_ARE_EXPERTS: tl.constexpr,
    PAIRS: tl.constexpr,
    SCALES: tl.constexpr,
    INTEGERS: tl.constexpr,
    GROUP_N: tl.constexpr,
    GROUP_K: tl.constexpr,
    ONE_B_SCALE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MASK_K: tl.constexpr,
    RUNS_OF_8: tl.constexpr,
    TRANSPOSED: tl.constexpr,
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
    SPLIT: tl.constexpr = GATED and not INTERLEAVED
    n = weight_rows(tile_n, N, width, SPLIT, RUNS_OF_8, BLOCK_SIZE_N)
    b_columns = b_ptr + expert * stride_be + n.to(tl.int64) * stride_bn
    if FORM == "" and not SORTED:
        # What was asked for comes while the first GEMM ends.
        if PROGRAMMATIC:
            prefetch_rows(b_columns, K * b_ptr.dtype.element_ty.primitive_bitwidth // 8)
        wait_for_previous(PROGRAMMATIC)
    offsets_k = tl.arange(0, BLOCK_SIZE_K)
    num_tiles_k = tl.cdiv(K, BLOCK_SIZE_K)
    if SCALES != "none":
        b_scale_columns = b_scale_ptr + expert * stride_bse
    if SCALES == "block":
        # K tiles never straddle two groups, so one scale holds for a row of a tile.
        tiles_per_group: tl.constexpr = (GROUP_K + BLOCK_SIZE_K - 1) // BLOCK_SIZE_K
        num_tiles_k = tl.cdiv(K, GROUP_K) * tiles_per_group
        if ONE_B_SCALE:
            first = tile_n * BLOCK_SIZE_N
            if SPLIT:
                first = first // 2
                up_scale_ptr = b_scale_columns + (first + width) // GROUP_N * stride_bsn
            b_scale_columns += first // GROUP_N * stride_bsn
        else:
            b_scale_columns += n // GROUP_N * stride_bsn

    for start in range(0, BLOCK_SIZE_M if SORTED else num_rows, BLOCK_SIZE_M):
        pair, pair_mask = pairs_of_tile(
            start, num_rows, where, sorted_token_ids_ptr, num_pairs, SORTED, PAIRS, BLOCK_SIZE_M
        )
        row = (pair // top_k).to(tl.int64)
        a_rows = a_ptr + row[:, None] * stride_am
        accumulator = tl.zeros(
            (BLOCK_SIZE_N, BLOCK_SIZE_M) if TRANSPOSED else (BLOCK_SIZE_M, BLOCK_SIZE_N),
            dtype=tl.int32 if INTEGERS else tl.float32,
        )
        # The number of stages is given so that the loads of scales are pipelined too.
        for tile_k in tl.range(0, num_tiles_k, num_stages=STAGES):
            if SCALES == "block":
                k_group = tile_k // tiles_per_group
                k = k_group * GROUP_K + tile_k % tiles_per_group * BLOCK_SIZE_K + offsets_k
                k_end = tl.minimum((k_group + 1) * GROUP_K, K)
            else:
                k = tile_k * BLOCK_SIZE_K + offsets_k
                k_end = K
            a_ptrs = a_rows + k[None, :] * stride_ak
            b_ptrs = b_columns[None, :] + k[:, None] * stride_bk
            if MASK_K:
                a = tl.load(a_ptrs, mask=pair_mask[:, None] & (k < k_end)[None, :], other=0.0)
                b = tl.load(b_ptrs, mask=(k < k_end)[:, None], other=0.0)
            else:
                a = tl.load(a_ptrs, mask=pair_mask[:, None], other=0.0)
                b = tl.load(b_ptrs)
            left = tl.trans(b) if TRANSPOSED else a
            right = tl.trans(a) if TRANSPOSED else b
            if SCALES == "block":
                a_scale_ptrs = a_scale_ptr + row * stride_asm + k_group * stride_ask
                a_scale = tl.load(a_scale_ptrs, mask=pair_mask, other=0.0)
                b_scale = tl.load(b_scale_columns + k_group * stride_bsk)
                if ONE_B_SCALE and not SPLIT:
                    scale = _along_rows(a_scale * b_scale, TRANSPOSED)
                else:
                    if ONE_B_SCALE:
                        up_scale = tl.load(up_scale_ptr + k_group * stride_bsk)
                        is_gate = tl.arange(0, BLOCK_SIZE_N) % 16 < 8
                        b_scale = tl.where(is_gate, b_scale, up_scale)
                    scale = _outer(a_scale, b_scale, TRANSPOSED)
                accumulator += tl.dot(left, right) * scale
            elif INTEGERS:
                accumulator = tl.dot(left, right, accumulator, out_dtype=tl.int32)
            elif SCALES == "outer":
                # Hopper's fp8 units keep about 14 bits while they accumulate: move each tile's
                # sum into float32 registers.
                accumulator = tl.dot(left, right, accumulator, max_num_imprecise_acc=BLOCK_SIZE_K)
            else:
                accumulator = tl.dot(left, right, accumulator, input_precision=INPUT_PRECISION)

        if TRANSPOSED:
            accumulator = tl.trans(accumulator)
        if SCALES == "outer":
            a_scale = tl.load(a_scale_ptr + row * stride_asm, mask=pair_mask, other=0.0)
            b_scale = tl.load(b_scale_columns + n * stride_bsn)
            accumulator = accumulator.to(tl.float32) * (a_scale[:, None] * b_scale[None, :])
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
            SCALES != "none",
            BLOCK_SIZE_M,
            BLOCK_SIZE_N,
        )


def fused_moe_gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    pairs: Pairs,
    num_pairs: int,
    top_k: int,
    config: TileConfig,
    out_dtype: torch.dtype,
    *,
    a_scale: torch.Tensor | None = None,
    b_scale: torch.Tensor | None = None,
    block_shape: tuple[int, int] | None = None,
    bias: torch.Tensor | None = None,
    activation: FusedActivation | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """``out[p] = activation(a[p // top_k] @ b[expert of p].T (+ bias))`` for every pair p.

    a: [rows, K], any strides; a row per token (``top_k`` pairs each), or per pair (``top_k`` 1).
    b: [E, N, K], any strides, the dtype of ``a``: bf16, fp16, fp32, fp8 or int8.
    pairs: sorted with ``config.block_m``, or, up to MAX_UNSORTED_PAIRS, unsorted. Unsorted, and
    without an activation, the routing must not be the output of the launch right before.
    a_scale, b_scale: float32, both or none: [1] or [rows, 1] and [E] or [E, N, 1]; with
    ``block_shape`` (r, c): [rows, ceil(K / c)] and [E, ceil(N / r), ceil(K / c)].
    bias: [E, N], contiguous.

    Returns [num_pairs, N] in ``out_dtype``, [num_pairs, N / 2] after a gated activation; rows of
    pairs without an expert are not written. ``out``: where to write, contiguous.
    """
    num_local_experts, n, k = b.shape
    launch = activation_arguments(activation)
    gated = launch.constants["GATED"]
    width = n // 2 if gated else n
    if out is None:
        out = torch.empty(num_pairs, width, dtype=out_dtype, device=a.device)
    num_tiles_n = triton.cdiv(n, config.block_n)
    routing = routing_arguments(pairs, num_pairs, num_local_experts, num_tiles_n)
    scales, strides = _scales(a_scale, b_scale, block_shape)
    block_k = config.block_k
    group_n, group_k = block_shape if scales == "block" and block_shape else (0, 0)
    if group_k:
        block_k = min(block_k, max(32, triton.next_power_of_2(group_k)))
    block_n = config.block_n
    split = gated and not launch.constants["INTERLEAVED"]
    part_n, columns = (block_n // 2, width) if split else (block_n, 0)
    _fused_moe_gemm_kernel[routing.grid](
        a,
        b,
        out,
        a_scale,
        b_scale,
        bias,
        *routing.positional,
        n,
        k,
        width,
        num_pairs,
        top_k,
        *a.stride(),
        *b.stride(),
        *strides,
        *launch.positional,
        **routing.constants,
        SCALES=scales,
        INTEGERS=a.dtype == torch.int8,
        GROUP_N=group_n,
        GROUP_K=group_k,
        ONE_B_SCALE=group_n != 0 and group_n % part_n == 0 and columns % part_n == 0,
        HAS_BIAS=bias is not None,
        MASK_K=k % block_k != 0 or (group_k != 0 and group_k % block_k != 0),
        RUNS_OF_8=width % 8 == 0,
        # Matrix units take 64 rows on the left: where there are fewer, the weight has them.
        TRANSPOSED=config.block_m < 64,
        INPUT_PRECISION="ieee" if a.dtype == torch.float32 else "tf32",
        **launch.constants,
        BLOCK_SIZE_M=config.block_m,
        BLOCK_SIZE_N=block_n,
        BLOCK_SIZE_K=block_k,
        GROUP_SIZE_M=config.group_m,
        STAGES=config.num_stages,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **launch_options(a.device),
    )
    return out


def _scales(
    a_scale: torch.Tensor | None,
    b_scale: torch.Tensor | None,
    block_shape: tuple[int, int] | None,
) -> tuple[str, list[int]]:
    """How scales are applied ("none", "outer": after the sum, "block": within), their strides."""
    if a_scale is None or b_scale is None:
        return "none", [0] * 5
    if block_shape is not None:
        return "block", [*a_scale.stride(), *b_scale.stride()]
    strides = [0] * 5
    if a_scale.numel() > 1:
        strides[0] = a_scale.stride(0)
    if b_scale.numel() > 1:
        strides[2] = b_scale.stride(0)
    if b_scale.dim() > 1:
        strides[3] = b_scale.stride(1)
    return "outer", strides
