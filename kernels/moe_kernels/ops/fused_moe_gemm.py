"""The grouped GEMM of MoE layers: every (token, expert) pair's row times its expert's weight."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

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
from moe_kernels.tuning import TileConfig


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

    # Columns of the tile. Those of a gate and its up alternate, so that both are in one thread.
    n = tile_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    # Out-of-range columns read column 0; their results are not stored.
    b_row = tl.where(n < N, n, 0)
    ALTERNATE: tl.constexpr = GATED and not INTERLEAVED
    if ALTERNATE:
        b_row = b_row % 2 * (N // 2) + b_row // 2
    b_row = b_row.to(tl.int64)
    b_ptr += expert.to(tl.int64) * stride_be
    b_columns = b_ptr + b_row[None, :] * stride_bn
    offsets_k = tl.arange(0, BLOCK_SIZE_K)
    num_tiles_k = tl.cdiv(K, BLOCK_SIZE_K)
    if SCALES != "none":
        b_scale_columns = b_scale_ptr + expert.to(tl.int64) * stride_bse
    if SCALES == "block":
        # K tiles never straddle two groups, so one scale holds for a row of a tile.
        tiles_per_group: tl.constexpr = (GROUP_K + BLOCK_SIZE_K - 1) // BLOCK_SIZE_K
        num_tiles_k = tl.cdiv(K, GROUP_K) * tiles_per_group
        if ONE_B_SCALE:
            first = tile_n * BLOCK_SIZE_N
            if ALTERNATE:
                first = first // 2
                up_scale_ptr = b_scale_columns + (first + N // 2) // GROUP_N * stride_bsn
            b_scale_columns += first // GROUP_N * stride_bsn
        else:
            b_scale_columns += b_row // GROUP_N * stride_bsn

    for start in range(0, num_rows, BLOCK_SIZE_M):
        rows = start + tl.arange(0, BLOCK_SIZE_M)
        if SORTED:
            pair = tl.load(sorted_token_ids_ptr + tile_m * BLOCK_SIZE_M + rows)
            pair_mask = pair < num_pairs
        else:
            pair = pairs_of_ranks(rank, rows, PAIRS)
            pair_mask = rows < num_rows
        row = (pair // top_k).to(tl.int64)
        a_rows = a_ptr + row[:, None] * stride_am
        accumulator = tl.zeros(
            (BLOCK_SIZE_M, BLOCK_SIZE_N), dtype=tl.int32 if INTEGERS else tl.float32
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
            b_ptrs = b_columns + k[:, None] * stride_bk
            if MASK_K:
                a = tl.load(a_ptrs, mask=pair_mask[:, None] & (k < k_end)[None, :], other=0.0)
                b = tl.load(b_ptrs, mask=(k < k_end)[:, None], other=0.0)
            else:
                a = tl.load(a_ptrs, mask=pair_mask[:, None], other=0.0)
                b = tl.load(b_ptrs)
            if SCALES == "block":
                a_scale_ptrs = a_scale_ptr + row * stride_asm + k_group * stride_ask
                a_scale = tl.load(a_scale_ptrs, mask=pair_mask, other=0.0)
                b_scale = tl.load(b_scale_columns + k_group * stride_bsk)
                if ONE_B_SCALE and not ALTERNATE:
                    accumulator += tl.dot(a, b) * (a_scale * b_scale)[:, None]
                else:
                    if ONE_B_SCALE:
                        up_scale = tl.load(up_scale_ptr + k_group * stride_bsk)
                        b_scale = tl.where(tl.arange(0, BLOCK_SIZE_N) % 2 == 0, b_scale, up_scale)
                    accumulator += tl.dot(a, b) * (a_scale[:, None] * b_scale[None, :])
            elif INTEGERS:
                accumulator = tl.dot(a, b, accumulator, out_dtype=tl.int32)
            elif SCALES == "outer":
                # Hopper's fp8 units keep about 14 bits while they accumulate: move each tile's
                # sum into float32 registers.
                accumulator = tl.dot(a, b, accumulator, max_num_imprecise_acc=BLOCK_SIZE_K)
            else:
                accumulator = tl.dot(a, b, accumulator, input_precision=INPUT_PRECISION)

        if SCALES == "outer":
            a_scale = tl.load(a_scale_ptr + row * stride_asm, mask=pair_mask, other=0.0)
            b_scale = tl.load(b_scale_columns + b_row * stride_bsn)
            accumulator = accumulator.to(tl.float32) * (a_scale[:, None] * b_scale[None, :])
        if HAS_BIAS:
            bias = tl.load(bias_ptr + expert.to(tl.int64) * N + b_row)
            accumulator += bias.to(tl.float32)[None, :]
        if FORM == "":
            value = accumulator
        else:
            if SCALES != "none":
                # Which fp8 number the result becomes depends on what the GEMM's is stored as.
                accumulator = accumulator.to(out_ptr.dtype.element_ty).to(tl.float32)
            if GATED:
                pieces = tl.reshape(accumulator, (BLOCK_SIZE_M, BLOCK_SIZE_N // 2, 2))
                gate, up = tl.split(pieces)
            else:
                gate = accumulator
                up = accumulator
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
        parts: tl.constexpr = 2 if GATED else 1
        width = N // parts
        column = tile_n * (BLOCK_SIZE_N // parts) + tl.arange(0, BLOCK_SIZE_N // parts)
        tl.store(
            out_ptr + pair[:, None].to(tl.int64) * width + column[None, :],
            value.to(out_ptr.dtype.element_ty),
            mask=pair_mask[:, None] & (column < width)[None, :],
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
    if out is None:
        out = torch.empty(num_pairs, n // 2 if gated else n, dtype=out_dtype, device=a.device)
    num_tiles_n = triton.cdiv(n, config.block_n)
    routing = routing_arguments(pairs, num_pairs, num_local_experts, num_tiles_n)
    scales, strides = _scales(a_scale, b_scale, block_shape)
    block_k = config.block_k
    group_n, group_k = block_shape if scales == "block" and block_shape else (0, 0)
    if group_k:
        block_k = min(block_k, max(32, triton.next_power_of_2(group_k)))
    block_n = config.block_n
    alternate = gated and not launch.constants["INTERLEAVED"]
    part_n, columns = (block_n // 2, n // 2) if alternate else (block_n, 0)
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
