"""The grouped GEMM of MoE layers: every (token, expert) pair's row times its expert's weight."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter

import torch
import triton
import triton.language as tl

from moe_kernels.ops.gemm_launch import (
    FusedActivation,
    Gemm,
    GemmCall,
    Pairs,
    gemm_call,
    gemm_launch,
    pairs_tensors,
)
from moe_kernels.ops.gemm_programs import (
    Settings,
    compute_tile,
    settings_of,
    tile_of_program,
    wait_for_tokens,
    weight_rows,
)
from moe_kernels.ops.launcher import Launcher, kept
from moe_kernels.tensor_spec import TensorSpec, spec_of, spec_of_optional
from moe_kernels.tiling.tile_config import TileConfig


@dataclass(frozen=True, eq=False)
class _Settings(Settings):
    """What the kernel is compiled for."""

    scales: str
    """How they are applied: "none", "outer" (after the sum) or "block" (within)."""
    integers: bool
    group_n: int
    group_k: int
    one_b_scale: bool
    """Whether a tile's gates have one scale for all, and its ups."""


@triton.jit
def _along_rows(x, TRANSPOSED: tl.constexpr):
    """A number for each row of A, as the sums have rows."""
    return x[None, :] if TRANSPOSED else x[:, None]


@triton.jit
def _outer(x, y, TRANSPOSED: tl.constexpr):
    """The products of a number for each row of A and one for each of B."""
    return y[:, None] * x[None, :] if TRANSPOSED else x[:, None] * y[None, :]


@triton.jit
def _sums(row, mask, operands, S: tl.constexpr, ROWS: tl.constexpr):
    """See :func:`moe_kernels.ops.gemm_programs.compute_tile`."""
    a_ptr, stride_am, stride_ak, a_scale_ptr, stride_asm, stride_ask = operands[:6]
    K, b_columns, stride_bk, b_scale_columns, up_scale_ptr, stride_bsk = operands[6:]
    # Matrix units take 64 rows on the left: where there are fewer, the weight has them.
    TRANSPOSED: tl.constexpr = ROWS < 64
    a_rows = a_ptr + row[:, None] * stride_am
    accumulator = tl.zeros(
        (S.block_n, ROWS) if TRANSPOSED else (ROWS, S.block_n),
        dtype=tl.int32 if S.integers else tl.float32,
    )
    offsets_k = tl.arange(0, S.block_k)
    num_tiles_k = tl.cdiv(K, S.block_k)
    if S.scales == "block":
        # K tiles never straddle two groups, so one scale holds for a row of a tile.
        tiles_per_group: tl.constexpr = (S.group_k + S.block_k - 1) // S.block_k
        num_tiles_k = tl.cdiv(K, S.group_k) * tiles_per_group
    if S.scales == "outer" and not S.integers:
        # Hopper's fp8 units keep about 14 bits while they accumulate: every now and then their sum
        # is moved into float32 registers.
        TILES_PER_PART: tl.constexpr = max(1, 512 // S.block_k)
        part = tl.zeros_like(accumulator)
    # The number of stages is given so that the loads of scales are pipelined too.
    for tile_k in tl.range(0, num_tiles_k, num_stages=S.stages):
        if S.scales == "block":
            k_group = tile_k // tiles_per_group
            k = k_group * S.group_k + tile_k % tiles_per_group * S.block_k + offsets_k
            k_end = tl.minimum((k_group + 1) * S.group_k, K)
        else:
            k = tile_k * S.block_k + offsets_k
            k_end = K
        a_ptrs = a_rows + k[None, :] * stride_ak
        b_ptrs = b_columns[None, :] + k[:, None] * stride_bk
        if S.mask_k:
            a = tl.load(a_ptrs, mask=mask[:, None] & (k < k_end)[None, :], other=0.0)
            b = tl.load(b_ptrs, mask=(k < k_end)[:, None], other=0.0)
        else:
            a = tl.load(a_ptrs, mask=mask[:, None], other=0.0)
            b = tl.load(b_ptrs)
        left = tl.trans(b) if TRANSPOSED else a
        right = tl.trans(a) if TRANSPOSED else b
        if S.scales == "block":
            a_scale_ptrs = a_scale_ptr + row * stride_asm + k_group * stride_ask
            a_scale = tl.load(a_scale_ptrs, mask=mask, other=0.0)
            b_scale = tl.load(b_scale_columns + k_group * stride_bsk)
            if S.one_b_scale and not S.split:
                scale = _along_rows(a_scale * b_scale, TRANSPOSED)
            else:
                if S.one_b_scale:
                    up_scale = tl.load(up_scale_ptr + k_group * stride_bsk)
                    is_gate = tl.arange(0, S.block_n) % 16 < 8
                    b_scale = tl.where(is_gate, b_scale, up_scale)
                scale = _outer(a_scale, b_scale, TRANSPOSED)
            accumulator += tl.dot(left, right) * scale
        elif S.integers:
            accumulator = tl.dot(left, right, accumulator, out_dtype=tl.int32)
        elif S.scales == "outer":
            part = tl.dot(left, right, part)
            if (tile_k + 1) % TILES_PER_PART == 0:
                accumulator += part
                part = tl.zeros_like(part)
        else:
            accumulator = tl.dot(left, right, accumulator, input_precision=S.input_precision)

    if S.scales == "outer" and not S.integers:
        accumulator += part
    if TRANSPOSED:
        accumulator = tl.trans(accumulator)
    if S.scales == "outer":
        a_scale = tl.load(a_scale_ptr + row * stride_asm, mask=mask, other=0.0)
        b_scale = tl.load(b_scale_columns)
        accumulator = accumulator.to(tl.float32) * (a_scale[:, None] * b_scale[None, :])
    return accumulator


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
    S: tl.constexpr,
):
    sorted_pairs = (expert_ids_ptr, num_tokens_post_padded_ptr)
    routing = (topk_ids_ptr, expert_map_ptr, num_experts)
    tile_n, expert, num_rows, where = tile_of_program(sorted_pairs, routing, num_pairs, N, S)
    if num_rows == 0:
        return
    n = weight_rows(tl.arange(0, S.block_n), tile_n, N, width, S)
    b_columns = b_ptr + expert * stride_be + n.to(tl.int64) * stride_bn
    wait_for_tokens(b_columns, K * b_ptr.dtype.element_ty.primitive_bitwidth // 8, S)
    # What there is not is another pointer: tuples hold no None.
    a_scales = a_ptr if S.scales == "none" else a_scale_ptr
    b_scale_columns = b_ptr
    up_scale_ptr = b_ptr
    bias_columns = b_ptr
    if S.scales != "none":
        b_scale_columns = b_scale_ptr + expert * stride_bse
        up_scale_ptr = b_scale_columns
    if S.scales == "outer":
        b_scale_columns += n * stride_bsn
    elif S.one_b_scale:
        first = tile_n * (S.block_n // 2 if S.split else S.block_n)
        up_scale_ptr += (first + width) // S.group_n * stride_bsn
        b_scale_columns += first // S.group_n * stride_bsn
    elif S.scales == "block":
        b_scale_columns += n // S.group_n * stride_bsn
    if S.has_bias:
        bias_columns = bias_ptr + expert * N + n

    pairs = (where, num_rows, sorted_token_ids_ptr, num_pairs, top_k)
    tokens = (a_ptr, stride_am, stride_ak, a_scales, stride_asm, stride_ask)
    weights = (K, b_columns, stride_bk, b_scale_columns, up_scale_ptr, stride_bsk)
    parameters = (limit, alpha, beta, situ_beta, situ_linear_beta)
    result = (out_ptr, tile_n, width, parameters)
    compute_tile(_sums, pairs, tokens + weights, bias_columns, result, S)


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
    routing_is_older: bool = False,
    a_is_sorted: bool = False,
    out_is_sorted: bool = False,
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
    routing_is_older: as for :func:`moe_kernels.ops.gemm_launch.gemm_call`.
    a_is_sorted: ``a`` has a row for each of sorted_token_ids, and a_scale, whose columns are
    contiguous where it has several. out_is_sorted: the result has. Raises ValueError for either
    where warpgroups do not share the work.
    """
    if config.warp_specialized and (a.data_ptr() | b.data_ptr()) % 16:
        config = config._replace(warp_specialized=False)
    call = gemm_call(
        pairs,
        num_pairs,
        top_k,
        config,
        activation,
        out_dtype,
        bias is not None,
        routing_is_older,
        a_is_sorted,
        out_is_sorted,
    )
    scales = spec_of_optional(a_scale), spec_of_optional(b_scale)
    gemm = prepared_gemm(call, spec_of(a), spec_of(b), *scales, block_shape)
    return gemm(a, a_scale, b, (b_scale, None, None, bias), pairs_tensors(pairs), out=out)


_TAKES = itemgetter(0, 1, 2, 3, 4, 7, 9, 10, 11, 12, 13)


@kept
def prepared_gemm(
    call: GemmCall,
    a: TensorSpec,
    b: TensorSpec,
    a_scale: TensorSpec | None,
    b_scale: TensorSpec | None,
    block_shape: tuple[int, int] | None,
) -> Gemm:
    """:func:`fused_moe_gemm` for such tensors.

    Where ``call.config`` is warp-specialized, a and b begin at multiples of 16 bytes.
    """
    _, n, k = b.shape
    launch = gemm_launch(call, b)
    scales, strides = scales_and_strides(a_scale, b_scale, block_shape)
    config = call.config
    block_k = config.block_k
    group_n, group_k = block_shape if scales == "block" and block_shape else (0, 0)
    if group_k:
        block_k = min(block_k, max(32, triton.next_power_of_2(group_k)))
    if config.warp_specialized:
        # Tritons before 3.6 lack what it imports.
        from moe_kernels.ops import fused_moe_gemm_hopper as hopper

        if hopper.takes(call, a, b, scales, strides, block_shape):
            launcher = hopper.launcher(call, launch, a, b, scales, strides, block_shape)
            rows = launch.sorted_rows if call.out_is_sorted else call.num_pairs
            return Gemm(launcher, hopper.TAKES, (rows, launch.width), call.out_dtype, True)
    if call.a_is_sorted or call.out_is_sorted:
        raise ValueError(f"no kernel multiplies sorted rows of {a.dtype} in tiles of {config}")
    split = launch.settings["gated"] and not launch.settings["interleaved"]
    part_n, columns = (config.block_n // 2, launch.width) if split else (config.block_n, 0)
    settings = settings_of(
        _Settings,
        **launch.settings,
        input_precision="ieee" if a.dtype == torch.float32 else "tf32",
        mask_k=k % block_k != 0 or (group_k != 0 and group_k % block_k != 0),
        halves=config.block_m >= 128 and launch.settings["sorted"],
        quantized=scales != "none",
        block_k=block_k,
        scales=scales,
        integers=a.dtype == torch.int8,
        group_n=group_n,
        group_k=group_k,
        one_b_scale=group_n != 0 and group_n % part_n == 0 and columns % part_n == 0,
    )
    sizes = (call.num_experts, n, k, launch.width, call.num_pairs, call.top_k)
    scalars = (*sizes, *a.strides, *b.strides, *strides, *launch.activation)
    launcher = Launcher(
        _fused_moe_gemm_kernel, launch.grid, scalars, {"S": settings}, **launch.options
    )
    return Gemm(launcher, _TAKES, (call.num_pairs, launch.width), call.out_dtype)


def scales_and_strides(
    a_scale: TensorSpec | None,
    b_scale: TensorSpec | None,
    block_shape: tuple[int, int] | None,
) -> tuple[str, list[int]]:
    """How scales are applied, as :class:`_Settings` have it, and their strides."""
    if a_scale is None or b_scale is None:
        return "none", [0] * 5
    if block_shape is not None:
        return "block", [*a_scale.strides, *b_scale.strides]
    strides = [0] * 5
    if a_scale.shape.numel() > 1:
        strides[0] = a_scale.strides[0]
    if b_scale.shape.numel() > 1:
        strides[2] = b_scale.strides[0]
    if len(b_scale.shape) > 1:
        strides[3] = b_scale.strides[1]
    return "outer", strides
