"""The grouped GEMM of FP8 for many rows per expert on Hopper: one warpgroup loads, two multiply.

Programs stay, one per multiprocessor, and take tile after tile: [128, 256], of which each of the
multiplying warpgroups has 64 rows. They wait for nothing but the stages that the loading one fills,
so that one adds up its sums, or stores a tile, while the other's products run.

The 256 rows of the weight are two halves of 128: of gates and of the ups that belong to them where
the weight has all gates first, else neighbours. So gates and ups are in the same registers.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from dataclasses import dataclass

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from moe_kernels.activation import activation_form
from moe_kernels.ops.activation import activate
from moe_kernels.ops.gemm_launch import GemmCall, GemmLaunch
from moe_kernels.ops.gemm_programs import Settings, settings_of, sorted_tile
from moe_kernels.ops.launcher import Launcher
from moe_kernels.ops.programmatic_launch import launch_attributes, wait_for_previous
from moe_kernels.tensor_spec import TensorSpec
from moe_kernels.tiling.devices import multiprocessors

# Triton 3.7 renamed them.
_load_rows = getattr(async_copy, "async_load", async_copy.async_copy_global_to_shared)
_load_tile = getattr(tma, "async_load", tma.async_copy_global_to_shared)


@dataclass(frozen=True, eq=False)
class _Settings(Settings):
    """What the kernel is compiled for."""

    scales: str
    """How they are applied: "outer" (after the sum) or "block" (within)."""
    group_n: int
    group_k: int
    one_b_scale: bool
    """Whether "outer" has one scale for all rows of an expert's weight."""


@gluon.jit
def _next(stage, phase, S: gl.constexpr):
    """The stage after this one, and the phase of its barriers."""
    last = stage == S.stages - 1
    return gl.where(last, 0, stage + 1), gl.where(last, phase ^ 1, phase)


@gluon.jit
def _load(buffers, routing, operands, S: gl.constexpr):
    """Fill the stages: rows of A by their pairs, rows of the weight, the scales of both."""
    a_buffers, b_buffers, scale_buffers, full, empty = buffers
    sorted_token_ids_ptr, expert_ids_ptr, num_tiles_m, num_tiles_n, num_pairs, top_k = routing
    a_ptr, stride_am, b_desc, expert_rows, K, second_half = operands[:6]
    a_scale_ptr, stride_asm, b_scale_ptr, stride_bse, stride_bsn = operands[6:11]
    HALF: gl.constexpr = S.block_m // 2
    PART: gl.constexpr = S.block_n // 2
    layout: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [4, 1], [1, 0])
    one_each: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    row_of_half = gl.arange(0, HALF, gl.SliceLayout(1, layout))
    row_of_tile = gl.arange(0, S.block_m, one_each)
    columns = gl.arange(0, S.block_k, gl.SliceLayout(0, layout))
    stage = 0
    phase = 1
    for tile in range(gl.program_id(0), num_tiles_m * num_tiles_n, gl.num_programs(0)):
        tile_m, tile_n = sorted_tile(tile, num_tiles_m, num_tiles_n, S)
        expert = gl.load(expert_ids_ptr + tile_m)
        first = tile_n * (PART if S.split else S.block_n)
        b_row = expert * expert_rows + first
        # Padding reads any row: what comes of it is not stored.
        ids_ptr = sorted_token_ids_ptr + tile_m * S.block_m
        row_0 = gl.minimum(gl.load(ids_ptr + row_of_half), num_pairs - 1) // top_k
        row_1 = gl.minimum(gl.load(ids_ptr + HALF + row_of_half), num_pairs - 1) // top_k
        a_0 = a_ptr + row_0[:, None].to(gl.int64) * stride_am + columns[None, :]
        a_1 = a_ptr + row_1[:, None].to(gl.int64) * stride_am + columns[None, :]
        if S.scales == "block":
            row = gl.minimum(gl.load(ids_ptr + row_of_tile), num_pairs - 1) // top_k
            a_scales = a_scale_ptr + row.to(gl.int64) * stride_asm
            # Those of both halves, as many times as there are rows of A in one.
            n = gl.where(row_of_tile < HALF, first, first + second_half)
            b_scales = b_scale_ptr + expert.to(gl.int64) * stride_bse + n // S.group_n * stride_bsn
        for k in range(0, K, S.block_k):
            mbarrier.wait(empty.index(stage), phase)
            bar = full.index(stage)
            mbarrier.expect(bar, 2 * b_desc.block_type.nbytes)
            b = b_buffers.index(stage)
            _load_tile(b_desc, [b_row, k], bar, b.slice(0, PART))
            _load_tile(b_desc, [b_row + second_half, k], bar, b.slice(PART, PART))
            if S.mask_k:
                mask = (columns < K - k)[None, :]
                _load_rows(a_buffers.index(2 * stage), a_0 + k, mask)
                _load_rows(a_buffers.index(2 * stage + 1), a_1 + k, mask)
            else:
                _load_rows(a_buffers.index(2 * stage), a_0 + k)
                _load_rows(a_buffers.index(2 * stage + 1), a_1 + k)
            if S.scales == "block":
                k_group = k // S.group_k
                _load_rows(scale_buffers.index(2 * stage), a_scales + k_group)
                _load_rows(scale_buffers.index(2 * stage + 1), b_scales + k_group)
            async_copy.mbarrier_arrive(bar, increment_count=False)
            stage, phase = _next(stage, phase, S)


@gluon.jit
def _add_scaled(part, sums, scale):
    """``part + sums * scale`` (of rows; None: 1), done before the product that follows.

    That one is to overwrite ``sums``, not to take as many registers again.
    """
    if scale is None:
        part = gl.inline_asm_elementwise(
            "add.rn.f32 $0, $1, $2;",
            "=f,f,f",
            [sums, part],
            dtype=gl.float32,
            is_pure=False,
            pack=1,
        )
    else:
        part = gl.inline_asm_elementwise(
            "fma.rn.f32 $0, $1, $2, $3;",
            "=f,f,f,f",
            [sums, gl.expand_dims(scale, 1), part],
            dtype=gl.float32,
            is_pure=False,
            pack=1,
        )
    return part


@gluon.jit
def _sums(GROUP: gl.constexpr, buffers, stage, phase, num_tiles_k, never, S: gl.constexpr):
    """The sums of both halves of the weight's rows, of 128 products each moved into float32.

    never: false, which the compiler must not know.
    """
    a_buffers, b_buffers, scale_buffers, full, empty = buffers
    HALF: gl.constexpr = S.block_m // 2
    PART: gl.constexpr = S.block_n // 2
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PART, 32])
    by_row: gl.constexpr = gl.SliceLayout(1, layout)
    part_0 = gl.zeros((HALF, PART), gl.float32, layout)
    part_1 = gl.zeros((HALF, PART), gl.float32, layout)
    sums = gl.zeros((HALF, PART), gl.float32, layout)
    for _ in range(num_tiles_k):
        mbarrier.wait(full.index(stage), phase)
        fence_async_shared()
        a = a_buffers.index(2 * stage + GROUP)
        b = b_buffers.index(stage).permute((1, 0))
        sums = warpgroup_mma(a, b.slice(0, PART, 1), sums, use_acc=never, is_async=True)
        scale_0 = None
        scale_1 = None
        if S.scales == "block":
            a_scale = scale_buffers.index(2 * stage).slice(GROUP * HALF, HALF).load(by_row)
            b_scales = scale_buffers.index(2 * stage + 1)
            scale_0 = a_scale * b_scales.slice(0, HALF).load(by_row)
            scale_1 = a_scale * b_scales.slice(HALF, HALF).load(by_row)
        sums = warpgroup_mma_wait(0, (sums,))
        part_0 = _add_scaled(part_0, sums, scale_0)
        sums = warpgroup_mma(a, b.slice(PART, PART, 1), sums, use_acc=never, is_async=True)
        sums = warpgroup_mma_wait(0, (sums,))
        mbarrier.arrive(empty.index(stage))
        part_1 = _add_scaled(part_1, sums, scale_1)
        stage, phase = _next(stage, phase, S)
    return part_0, part_1, stage, phase


@gluon.jit
def _scaled(part, row_scale, first, expert, N, operands, S: gl.constexpr):
    """The sums ``part`` by their scales, and with a bias; the weight's rows start at ``first``."""
    b_scale_ptr, stride_bse, stride_bsn, bias_ptr = operands[8:12]
    n = first + gl.arange(0, part.shape[1], gl.SliceLayout(0, part.type.layout))
    if S.scales == "outer":
        if S.one_b_scale:
            part = part * (row_scale * gl.load(b_scale_ptr + expert * stride_bse))[:, None]
        else:
            b_scale_ptrs = b_scale_ptr + expert * stride_bse + n * stride_bsn
            b_scale = gl.load(b_scale_ptrs, mask=n < N, other=0.0)
            part = part * (row_scale[:, None] * b_scale[None, :])
    if S.has_bias:
        bias = gl.load(bias_ptr + expert * N + n, mask=n < N, other=0.0)
        part += bias.to(gl.float32)[None, :]
    return part


@gluon.jit
def _activated(gate, up, result, S: gl.constexpr):
    """The activation of sums, rounded as if they had been stored."""
    out_ptr, _, parameters = result
    gate = gate.to(out_ptr.dtype.element_ty).to(gl.float32)
    up = up.to(out_ptr.dtype.element_ty).to(gl.float32)
    return activate(gate, up, parameters, S)


@gluon.jit
def _store(value, column, where, routing, result, S: gl.constexpr):
    """Store ``value`` [rows, columns], from ``column`` on, of the pairs from ``where`` on."""
    sorted_token_ids_ptr, num_pairs = routing[0], routing[4]
    out_ptr, width = result[0], result[1]
    ROWS: gl.constexpr = value.shape[0]
    COLUMNS: gl.constexpr = value.shape[1]
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // COLUMNS, COLUMNS // 8], [4, 1], [1, 0])
    pair = gl.load(sorted_token_ids_ptr + where + gl.arange(0, ROWS, gl.SliceLayout(1, layout)))
    value = gl.convert_layout(value.to(out_ptr.dtype.element_ty), layout)
    columns = column + gl.arange(0, COLUMNS, gl.SliceLayout(0, layout))
    gl.store(
        out_ptr + pair[:, None].to(gl.int64) * width + columns[None, :],
        value,
        mask=(pair < num_pairs)[:, None] & (columns < width)[None, :],
    )


@gluon.jit
def _multiply(GROUP: gl.constexpr, buffers, routing, operands, result, S: gl.constexpr):
    """Multiply, and store, the GROUP-th half of each tile's rows."""
    full, empty = buffers[3:]
    sorted_token_ids_ptr, expert_ids_ptr, num_tiles_m, num_tiles_n, num_pairs, top_k = routing
    K, second_half, N = operands[4], operands[5], operands[12]
    a_scale_ptr, stride_asm = operands[6:8]
    HALF: gl.constexpr = S.block_m // 2
    PART: gl.constexpr = S.block_n // 2
    stage = 0
    phase = 0
    num_tiles_k = gl.cdiv(K, S.block_k)
    for tile in range(gl.program_id(0), num_tiles_m * num_tiles_n, gl.num_programs(0)):
        tile_m, tile_n = sorted_tile(tile, num_tiles_m, num_tiles_n, S)
        where = tile_m * S.block_m + GROUP * HALF
        if gl.load(sorted_token_ids_ptr + where) < num_pairs:
            part_0, part_1, stage, phase = _sums(
                GROUP, buffers, stage, phase, num_tiles_k, num_pairs < 0, S
            )
            row_scale = 1.0
            if S.scales == "outer":
                rows = gl.arange(0, HALF, gl.SliceLayout(1, part_0.type.layout))
                pair = gl.load(sorted_token_ids_ptr + where + rows)
                row = gl.minimum(pair, num_pairs - 1) // top_k
                row_scale = gl.load(a_scale_ptr + row.to(gl.int64) * stride_asm)
            expert = gl.load(expert_ids_ptr + tile_m).to(gl.int64)
            first = tile_n * (PART if S.split else S.block_n)
            part_0 = _scaled(part_0, row_scale, first, expert, N, operands, S)
            part_1 = _scaled(part_1, row_scale, first + second_half, expert, N, operands, S)
            if S.split:
                _store(_activated(part_0, part_1, result, S), first, where, routing, result, S)
            else:
                if S.interleaved:
                    gate_0, up_0 = gl.split(gl.reshape(part_0, (HALF, PART // 2, 2)))
                    gate_1, up_1 = gl.split(gl.reshape(part_1, (HALF, PART // 2, 2)))
                    part_0 = _activated(gate_0, up_0, result, S)
                    part_1 = _activated(gate_1, up_1, result, S)
                elif S.form != "":
                    part_0 = _activated(part_0, part_0, result, S)
                    part_1 = _activated(part_1, part_1, result, S)
                STEP: gl.constexpr = PART // 2 if S.interleaved else PART
                column = tile_n * (2 * STEP)
                _store(part_0, column, where, routing, result, S)
                _store(part_1, column + STEP, where, routing, result, S)
        else:
            for _ in range(num_tiles_k):
                mbarrier.wait(full.index(stage), phase)
                mbarrier.arrive(empty.index(stage))
                stage, phase = _next(stage, phase, S)


@gluon.jit(do_not_specialize=["num_pairs"])
def _fused_moe_gemm_hopper_kernel(
    a_ptr,
    b_desc,
    out_ptr,
    a_scale_ptr,
    b_scale_ptr,
    bias_ptr,
    sorted_token_ids_ptr,
    expert_ids_ptr,
    num_tokens_post_padded_ptr,
    topk_ids_ptr,  # none, as pairs are sorted
    expert_map_ptr,
    expert_rows,
    N,
    K,
    width,
    num_pairs,
    top_k,
    stride_am,
    stride_asm,
    stride_bse,
    stride_bsn,
    limit,
    alpha,
    beta,
    situ_beta,
    situ_linear_beta,
    S: gl.constexpr,
):
    HALF: gl.constexpr = S.block_m // 2
    tiled: gl.constexpr = b_desc.layout
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    bars: gl.constexpr = mbarrier.MBarrierLayout()
    a_buffers = gl.allocate_shared_memory(b_desc.dtype, [2 * S.stages, HALF, S.block_k], tiled)
    b_buffers = gl.allocate_shared_memory(b_desc.dtype, [S.stages, S.block_n, S.block_k], tiled)
    scale_buffers = gl.allocate_shared_memory(gl.float32, [2 * S.stages, S.block_m], plain)
    full = gl.allocate_shared_memory(gl.int64, [S.stages, 1], bars)
    empty = gl.allocate_shared_memory(gl.int64, [S.stages, 1], bars)
    for stage in gl.static_range(S.stages):
        # All threads that load, and one more time the one that asks for the weight.
        mbarrier.init(full.index(stage), 4 * 32 + 1)
        mbarrier.init(empty.index(stage), 2)
    fence_async_shared()
    wait_for_previous(S.programmatic)
    num_tiles_m = gl.load(num_tokens_post_padded_ptr) // S.block_m
    num_tiles_n = gl.cdiv(N, S.block_n)
    # What there is not is another pointer: tuples hold no None.
    biases = bias_ptr if S.has_bias else a_ptr
    second_half = width if S.split else S.block_n // 2
    buffers = (a_buffers, b_buffers, scale_buffers, full, empty)
    routing = (
        sorted_token_ids_ptr,
        expert_ids_ptr,
        num_tiles_m,
        num_tiles_n,
        num_pairs,
        top_k,
    )
    operands = (
        a_ptr,
        stride_am,
        b_desc,
        expert_rows,
        K,
        second_half,
        a_scale_ptr,
        stride_asm,
        b_scale_ptr,
        stride_bse,
        stride_bsn,
        biases,
        N,
    )
    parameters = (limit, alpha, beta, situ_beta, situ_linear_beta)
    result = (out_ptr, width, parameters)
    gl.warp_specialize(
        [
            (_multiply, (0, buffers, routing, operands, result, S)),
            (_multiply, (1, buffers, routing, operands, result, S)),
            (_load, (buffers, routing, operands, S)),
        ],
        [4, 4],
        [232, 40],
    )


def takes(
    call: GemmCall,
    a: TensorSpec,
    b: TensorSpec,
    scales: str,
    strides: list[int],
    block_shape: tuple[int, int] | None,
) -> bool:
    """Whether the kernel takes a GEMM of ``a`` and ``b``, both aligned to 16 bytes.

    scales, strides: how scales are applied, as the settings have it, and of a_scale and b_scale.
    """
    config, activation = call.config, call.activation
    rows, k = b.shape[1:]
    if call.blocks is None or b.dtype != torch.float8_e4m3fn or scales == "none":
        return False
    if config[:3] != (128, 256, 128) or call.out_dtype.itemsize != 2:
        return False
    # Triton knows multiples of 16, so that what is copied begins at 16 bytes; experts in a row.
    if k % 16 or a.strides[0] % 16 or b.strides[1] % 16 or b.strides[0] % b.strides[1]:
        return False
    if a.strides[1] != 1 or b.strides[2] != 1:
        return False
    if block_shape is None:
        return True
    group_n, group_k = block_shape
    part = config.block_n // 2
    split = activation is not None and activation_form(activation.name)[1:] == (True, False)
    return (
        group_k == config.block_k
        and group_n % part == 0
        and (not split or rows // 2 % part == 0)
        and strides[1] == strides[4] == 1
    )


def launcher(
    call: GemmCall,
    launch: GemmLaunch,
    a: TensorSpec,
    b: TensorSpec,
    scales: str,
    strides: list[int],
    block_shape: tuple[int, int] | None,
) -> Launcher:
    """What launches the kernel for a GEMM that it :func:`takes`."""
    experts, n, k = b.shape
    expert_rows = b.strides[0] // b.strides[1]
    group_n, group_k = block_shape or (0, 0)
    settings = settings_of(
        _Settings,
        **launch.settings,
        mask_k=k % call.config.block_k != 0,
        halves=True,
        quantized=True,
        input_precision="tf32",
        block_k=call.config.block_k,
        scales=scales,
        group_n=group_n,
        group_k=group_k,
        one_b_scale=strides[3] == 0,
    )
    layout = gl.NVMMASharedLayout(128, 8, 2)
    shape = [(experts - 1) * expert_rows + n, k]
    block = [call.config.block_n // 2, call.config.block_k]

    def described(weight: torch.Tensor) -> TensorDescriptor:
        return TensorDescriptor(weight, shape, [b.strides[1], 1], block, layout)

    stride_asm, _, stride_bse, stride_bsn, _ = strides
    sizes = (expert_rows, n, k, launch.width, call.num_pairs, call.top_k)
    scale_strides = (a.strides[0], stride_asm, stride_bse, stride_bsn)
    return Launcher(
        _fused_moe_gemm_hopper_kernel,
        (min(launch.grid[0], multiprocessors(b.device)),),
        (*sizes, *scale_strides, *launch.activation),
        {"S": settings},
        {1: described},
        num_warps=4,
        **launch_attributes(b.device),
    )
