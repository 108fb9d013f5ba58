"""The grouped GEMM of MoE layers: every (token, expert) pair's row times its expert's weight."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl


class TileConfig(NamedTuple):
    """How one GEMM is cut into programs. ``block_m`` is also the alignment of the pairs."""

    block_m: int
    block_n: int
    block_k: int
    group_m: int
    num_warps: int
    num_stages: int


@triton.jit
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
    TOP_K: tl.constexpr,
    SCALES: tl.constexpr,
    GROUP_N: tl.constexpr,
    GROUP_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MASK_K: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
):
    # Tiles are numbered over the blocks that exist, not those the grid allows for; neighbours
    # share rows of A within a group, and an expert's weights.
    num_tiles_m = tl.load(num_tokens_post_padded_ptr) // BLOCK_SIZE_M
    num_tiles_n = tl.cdiv(N, BLOCK_SIZE_N)
    tile = tl.program_id(0)
    if tile >= num_tiles_m * num_tiles_n:
        return
    group = tile // (GROUP_SIZE_M * num_tiles_n)
    group_size = tl.minimum(num_tiles_m - group * GROUP_SIZE_M, GROUP_SIZE_M)
    tile_m = group * GROUP_SIZE_M + tile % (GROUP_SIZE_M * num_tiles_n) % group_size
    tile_n = tile % (GROUP_SIZE_M * num_tiles_n) // group_size

    pair = tl.load(sorted_token_ids_ptr + tile_m * BLOCK_SIZE_M + tl.arange(0, BLOCK_SIZE_M))
    pair_mask = pair < num_pairs
    row = (pair // TOP_K).to(tl.int64)
    expert = tl.load(expert_ids_ptr + tile_m).to(tl.int64)
    n = tile_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    n_mask = n < N
    # Out-of-range columns read column 0; their results are not stored.
    n_safe = tl.where(n_mask, n, 0).to(tl.int64)

    a_rows = a_ptr + row[:, None] * stride_am
    b_columns = b_ptr + expert * stride_be + n_safe[None, :] * stride_bn
    accumulator = tl.zeros((BLOCK_SIZE_M, BLOCK_SIZE_N), dtype=tl.float32)
    offsets_k = tl.arange(0, BLOCK_SIZE_K)
    if SCALES == "block":
        # K tiles never straddle two groups, so one scale holds for a row of a tile.
        tiles_per_group: tl.constexpr = (GROUP_K + BLOCK_SIZE_K - 1) // BLOCK_SIZE_K
        a_scale_rows = a_scale_ptr + row * stride_asm
        b_scale_columns = b_scale_ptr + expert * stride_bse + n_safe // GROUP_N * stride_bsn
        num_tiles_k = tl.cdiv(K, GROUP_K) * tiles_per_group
    else:
        num_tiles_k = tl.cdiv(K, BLOCK_SIZE_K)

    for tile_k in range(num_tiles_k):
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
            a_scale = tl.load(a_scale_rows + k_group * stride_ask, mask=pair_mask, other=0.0)
            b_scale = tl.load(b_scale_columns + k_group * stride_bsk)
            accumulator += tl.dot(a, b) * a_scale[:, None] * b_scale[None, :]
        elif SCALES == "outer":
            # Hopper's fp8 units keep about 14 bits while they accumulate: move each tile's sum
            # into float32 registers.
            accumulator = tl.dot(a, b, accumulator, max_num_imprecise_acc=BLOCK_SIZE_K)
        else:
            accumulator = tl.dot(a, b, accumulator, input_precision=INPUT_PRECISION)

    if SCALES == "outer":
        a_scale = tl.load(a_scale_ptr + row * stride_asm, mask=pair_mask, other=0.0)
        b_scale = tl.load(b_scale_ptr + expert * stride_bse + n_safe * stride_bsn)
        accumulator *= a_scale[:, None] * b_scale[None, :]
    if HAS_BIAS:
        accumulator += tl.load(bias_ptr + expert * N + n_safe).to(tl.float32)[None, :]
    out_ptrs = out_ptr + pair[:, None].to(tl.int64) * N + n[None, :]
    tl.store(
        out_ptrs,
        accumulator.to(out_ptr.dtype.element_ty),
        mask=pair_mask[:, None] & n_mask[None, :],
    )


@functools.cache
def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may have."""
    if device.type != "cuda":
        return 64 * 1024
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 64 * 1024))


def default_tile_config(
    num_pairs: int, num_local_experts: int, dtype: torch.dtype, device: torch.device
) -> TileConfig:
    """A tiling for ``num_pairs`` pairs spread over the experts; ``dtype`` is that of the weights.

    Small row tiles where each expert has few pairs: the weights' bytes count then, not the
    products. ``block_m`` depends on nothing that differs between the two GEMMs of a layer.
    """
    pairs_per_expert = num_pairs / num_local_experts
    row_bytes = 128  # of one K tile: a cache line
    block_k = row_bytes // dtype.itemsize
    if pairs_per_expert <= 8:
        config = TileConfig(16, 64, 2 * block_k, 1, 4, 4)
    elif pairs_per_expert <= 24:
        config = TileConfig(32, 128, block_k, 1, 4, 4)
    elif pairs_per_expert <= 128:
        config = TileConfig(64, 128, block_k, 4, 4, 4)
    else:
        config = TileConfig(128, 128, block_k, 8, 8, 4)
    # A pipeline of s stages holds s tiles of A and of B.
    stage = (config.block_m + config.block_n) * config.block_k * dtype.itemsize
    return config._replace(
        num_stages=max(1, min(config.num_stages, _shared_memory(device) // stage))
    )


def fused_moe_gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    sorted_token_ids: torch.Tensor,
    expert_ids: torch.Tensor,
    num_tokens_post_padded: torch.Tensor,
    num_pairs: int,
    top_k: int,
    config: TileConfig,
    out_dtype: torch.dtype,
    *,
    a_scale: torch.Tensor | None = None,
    b_scale: torch.Tensor | None = None,
    block_shape: tuple[int, int] | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """``out[p] = a[p // top_k] @ b[expert of p].T (+ bias)`` for every pair p with an expert.

    a: [rows, K], any strides; a row per token (``top_k`` pairs each), or per pair (``top_k`` 1).
    b: [E, N, K], any strides, the dtype of ``a``: bf16, fp16, fp32 or fp8.
    sorted_token_ids, expert_ids, num_tokens_post_padded: of
    :func:`moe_kernels.ops.moe_align_block_size.moe_align_block_size` with ``config.block_m``.
    a_scale, b_scale: float32, both or none: [1] or [rows, 1] and [E] or [E, N, 1]; with
    ``block_shape`` (r, c): [rows, ceil(K / c)] and [E, ceil(N / r), ceil(K / c)].
    bias: [E, N], contiguous.

    Returns [num_pairs, N] in ``out_dtype``, accumulated in float32 (float32 operands are
    multiplied in full precision). Rows of pairs without an expert are not written.
    """
    _, n, k = b.shape
    out = torch.empty(num_pairs, n, dtype=out_dtype, device=a.device)
    group_n, group_k = block_shape or (0, 0)
    strides = [0, 0, 0, 0, 0]  # of the scales: along A's rows and K; B's experts, N and K
    if a_scale is None or b_scale is None:
        scales = "none"
    elif block_shape is not None:
        scales = "block"
        strides = [*a_scale.stride(), *b_scale.stride()]
    else:
        scales = "outer"
        if a_scale.numel() > 1:
            strides[0] = a_scale.stride(0)
        if b_scale.numel() > 1:
            strides[2] = b_scale.stride(0)
        if b_scale.dim() > 1:
            strides[3] = b_scale.stride(1)
    block_k = config.block_k
    if group_k:
        block_k = min(block_k, max(32, triton.next_power_of_2(group_k)))
    grid = (expert_ids.shape[0] * triton.cdiv(n, config.block_n),)
    _fused_moe_gemm_kernel[grid](
        a,
        b,
        out,
        a_scale,
        b_scale,
        bias,
        sorted_token_ids,
        expert_ids,
        num_tokens_post_padded,
        n,
        k,
        num_pairs,
        *a.stride(),
        *b.stride(),
        *strides,
        TOP_K=top_k,
        SCALES=scales,
        GROUP_N=group_n,
        GROUP_K=group_k,
        HAS_BIAS=bias is not None,
        MASK_K=k % block_k != 0 or (group_k != 0 and group_k % block_k != 0),
        INPUT_PRECISION="ieee" if a.dtype == torch.float32 else "tf32",
        BLOCK_SIZE_M=config.block_m,
        BLOCK_SIZE_N=config.block_n,
        BLOCK_SIZE_K=block_k,
        GROUP_SIZE_M=config.group_m,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out
