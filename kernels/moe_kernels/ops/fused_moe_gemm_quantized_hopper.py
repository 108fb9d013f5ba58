"""The grouped GEMM on packed weights on Hopper: one warpgroup loads, others unpack and multiply.

It computes what :mod:`moe_kernels.ops.fused_moe_gemm_quantized` does, from the same tensors.
Programs stay and take tile after tile. Multiplying warpgroups have 64 rows of the weight at a time
and wait for nothing but the stages that the loading one fills: the matrix units work on one block
of columns while the next one is unpacked.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code=assignment
# ruff: noqa: RUF005  # kernels add tuples, but do not unpack them

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from moe_kernels.ops.hopper_stages import barriers_of_stages
from moe_kernels.ops.hopper_unpacking import count_units, units_of_stage, words_in_shared_memory
from moe_kernels.ops.launcher import Launcher
from moe_kernels.ops.programmatic_launch import launch_attributes, wait_for_previous
from moe_kernels.ops.quantized_hopper_programs import (
    LOADING_WARPS,
    load_packed_tiles,
    multiply_packed_tiles,
)
from moe_kernels.tensor_spec import TensorSpec
from moe_kernels.tiling.devices import multiprocessors
from moe_kernels.tiling.tile_config import TileConfig

_SHARED_MEMORY = 228 << 10
_REGISTERS = 1 << 16
"""Of a multiprocessor."""


@gluon.jit(do_not_specialize=["num_pairs", "num_experts"])
def _fused_moe_gemm_quantized_hopper_kernel(
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
    S: gl.constexpr,
    WARPS: gl.constexpr,
    LOADING_REGISTERS: gl.constexpr,
    HALVES: gl.constexpr,
):
    wait_for_previous(S.programmatic)
    num_tiles_m = gl.load(num_tokens_post_padded_ptr) // S.block_m
    num_tiles_n = gl.cdiv(N, S.block_n)
    if gl.program_id(0) >= num_tiles_m * num_tiles_n:
        return
    WORDS: gl.constexpr = S.words * S.blocks
    ONE_ROW: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    A_SHARED: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    B_SHARED: gl.constexpr = words_in_shared_memory(WORDS)
    a_stages = gl.allocate_shared_memory(
        gl.bfloat16, [S.stages * S.blocks, S.block_m, S.block_k], A_SHARED
    )
    b_stages = gl.allocate_shared_memory(gl.int16, [S.stages, S.block_n, WORDS], B_SHARED)
    UNITS: gl.constexpr = S.stages * units_of_stage(S)
    scale_stages = gl.allocate_shared_memory(gl.int32, [UNITS, S.block_n], ONE_ROW)
    zero_stages = scale_stages
    if S.has_zero_point:
        zero_stages = gl.allocate_shared_memory(gl.int32, [UNITS, S.block_n], ONE_ROW)
    full, empty = barriers_of_stages(32 * LOADING_WARPS, 1, S)

    # What there is not is another pointer: tuples hold no None.
    zero_points = zero_point_ptr if S.has_zero_point else b_scale_ptr
    a_scales = a_scale_ptr if S.has_a_scale else a_ptr
    row_scales = row_scale_ptr if S.has_row_scale else a_ptr
    biases = bias_ptr if S.has_bias else a_ptr
    stages = (a_stages, b_stages, scale_stages, zero_stages, full, empty)
    tiles = (num_tiles_m, num_tiles_n, sorted_token_ids_ptr, expert_ids_ptr, num_pairs, top_k)
    loaded = (a_ptr, stride_am, K, b_ptr, stride_be, stride_bn, stored_columns)
    num_units = gl.cdiv(num_groups, S.per_unit)
    loaded = loaded + (b_scale_ptr, zero_points, stride_bse, stride_bsg, num_units, N, width)
    multiplied = (K, a_scales, row_scales, stride_rse, stride_rsn, biases, N, out_ptr, width)
    multiplied = multiplied + ((limit, alpha, beta, situ_beta, situ_linear_beta),)
    gl.warp_specialize(
        [
            (multiply_packed_tiles, (stages, tiles, multiplied, S, WARPS, HALVES)),
            (load_packed_tiles, (stages, tiles, loaded, S)),
        ],
        [LOADING_WARPS],
        [LOADING_REGISTERS],
    )


def takes(a: TensorSpec, values: TensorSpec, settings: Any, config: TileConfig) -> bool:
    """Whether the kernel computes this GEMM, of tensors that begin at multiples of 16 bytes.

    a: [rows, K]. values: as :mod:`moe_kernels.ops.fused_moe_gemm_quantized` loads them.
    """
    columns = settings.block_k.value * settings.blocks.value
    unit = settings.group.value * settings.per_unit.value
    # What is copied begins at 16 bytes, as Triton knows of multiples of 16.
    sizes = (a.shape[1], a.strides[0], *values.strides[:2])
    return bool(
        settings.sorted
        and settings.packed_arithmetic
        # Of a stage of one block, a product would still read what the next stage is unpacked to.
        and settings.blocks >= 2
        and (columns % unit == 0 or unit % columns == 0)
        and a.strides[1] == 1
        and not any(size % 16 for size in sizes)
        and config.num_warps in (4, 8, 16)
        and config.block_n % (16 * config.num_warps) == 0
        and _programs(settings, config) > 0
    )


def hopper_launcher(
    settings: Any,
    config: TileConfig,
    num_tiles: int,
    scalars: tuple[float, ...],
    views: Mapping[int, torch.dtype],
    device: torch.device,
) -> Launcher:
    """What launches the kernel, for at most so many tiles, where it :func:`takes` the GEMM."""
    warpgroups = config.num_warps // 4
    # A thread's sums, and two blocks of weights. Fewer registers than these and 48 others would
    # have to be spilled; with fewer than 32, ptxas lets every product wait for the one before it.
    numbers = (config.block_m + 64) * config.block_n // (128 * warpgroups)
    # The loading one has addresses of rows, of A in two registers each.
    loading = max(40, 8 + (2 * config.block_m + config.block_n) // 64 * 8)
    most = max(1, _REGISTERS // (128 * ((numbers + 48) * warpgroups + loading)))
    programs = min(most, _programs(settings, config))
    registers = _REGISTERS // (128 * (warpgroups + 1) * programs) // 8 * 8  # at the start
    loading = min(loading, registers * (warpgroups + 1) - warpgroups * (numbers + 32))
    constants = {
        "S": settings,
        "WARPS": config.num_warps,
        "LOADING_REGISTERS": loading,
        # With more, ptxas would let products wait as well.
        "HALVES": config.block_m >= 32 and numbers <= 160,
    }
    return Launcher(
        _fused_moe_gemm_quantized_hopper_kernel,
        (min(num_tiles, programs * multiprocessors(device)),),
        scalars,
        constants,
        viewed=views,
        num_warps=config.num_warps,
        maxnreg=registers,
        **launch_attributes(device),
    )


def _programs(settings: Any, config: TileConfig) -> int:
    """How many programs share a multiprocessor, as far as its shared memory goes."""
    columns = settings.block_k.value * settings.blocks.value
    words = settings.words.value * settings.blocks.value
    units = count_units(settings) * (2 if settings.has_zero_point else 1)
    stage = config.block_n * (2 * words + 4 * units) + config.block_m * 2 * columns
    # Results pass through it on their way too, and 1 KB of each program is not its own.
    return int(_SHARED_MEMORY // (config.num_stages * stage + 6144))
