"""The grouped GEMM for many rows per expert on Hopper: one warpgroup loads, two multiply.

Programs stay, one per multiprocessor, and take tile after tile, each the next that none has taken:
so those that share rows begin at about the same time, and find them in the cache. Of a tile,
[128, 256], each of the multiplying warpgroups has 64 rows. They wait for nothing but the stages
that the loading one fills, so that one adds up its sums, or stores a tile, while the other's
products run.

The 256 rows of the weight are two halves of 128: of gates and of the ups that belong to them where
the weight has all gates first, else neighbours. So gates and ups are in the same registers. A
weight of 16 bits may lie transposed, as matrix units take that, too.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from operator import itemgetter

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from moe_kernels.activation import activation_form
from moe_kernels.ops.gemm_launch import GemmCall, GemmLaunch
from moe_kernels.ops.gemm_programs import settings_of
from moe_kernels.ops.hopper_programs import HopperSettings, load_tiles, multiply_tiles
from moe_kernels.ops.hopper_stages import barriers_of_stages
from moe_kernels.ops.hopper_tiles import TOLD
from moe_kernels.ops.launcher import Launcher
from moe_kernels.ops.programmatic_launch import launch_attributes, wait_for_previous
from moe_kernels.tensor_spec import TensorSpec
from moe_kernels.tiling.devices import multiprocessors


@gluon.jit(do_not_specialize=["num_pairs"])
def _fused_moe_gemm_hopper_kernel(
    a_ptr,  # or its descriptor, where its rows are sorted
    b_desc,
    out_ptr,  # or its descriptor, where the result's are
    a_scale_ptr,  # or a descriptor, of scales in blocks of sorted rows
    b_scale_ptr,
    bias_ptr,
    sorted_token_ids_ptr,
    expert_ids_ptr,
    num_tokens_post_padded_ptr,
    tiles_taken_ptr,
    blocks_of_expert_ptr,
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
    a_buffers = gl.allocate_shared_memory(b_desc.dtype, [2 * S.stages, HALF, S.block_k], tiled)
    unswizzled: gl.constexpr = gl.NVMMASharedLayout(0, 32, 2)
    B_ROWS: gl.constexpr = S.block_k if S.b_is_transposed else S.block_n
    B_COLUMNS: gl.constexpr = S.block_n if S.b_is_transposed else S.block_k
    b_buffers = gl.allocate_shared_memory(b_desc.dtype, [S.stages, B_ROWS, B_COLUMNS], tiled)
    scale_buffers = gl.allocate_shared_memory(gl.float32, [S.stages, 1, S.block_m], unswizzled)
    full, empty = barriers_of_stages(S.arrivals, 2, S)
    wait_for_previous(S.programmatic)
    num_tiles_m = gl.load(num_tokens_post_padded_ptr) // S.block_m
    num_tiles_n = gl.cdiv(N, S.block_n)
    # What there is not is another pointer: tuples hold no None.
    biases = bias_ptr if S.has_bias else sorted_token_ids_ptr
    second_half = width if S.split else S.block_n // 2
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    tile_buffers = gl.allocate_shared_memory(gl.int32, [S.stages, TOLD], plain)
    buffers = (a_buffers, b_buffers, scale_buffers, full, empty, tile_buffers)
    routing = (
        sorted_token_ids_ptr,
        expert_ids_ptr,
        num_tiles_m,
        num_tiles_n,
        num_pairs,
        top_k,
        tiles_taken_ptr,
        N,
        blocks_of_expert_ptr,
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
    staging = tile_buffers
    if S.stores_by_tma:
        half_tile: gl.constexpr = [2, HALF, S.block_n // 2]
        staging = gl.allocate_shared_memory(out_ptr.dtype, half_tile, out_ptr.layout)
    result = (out_ptr, width, parameters, staging)
    gl.warp_specialize(
        [
            (multiply_tiles, (0, buffers, routing, operands, result, S)),
            (multiply_tiles, (1, buffers, routing, operands, result, S)),
            (load_tiles, (buffers, routing, operands, S)),
        ],
        [4, 4],
        [232, 40],
    )


TAKES = itemgetter(0, 1, 2, 3, 4, 7, 9, 10, 11, 14, 15)
"""Those of a GEMM's tensors that the kernel has."""
_DTYPES = {torch.float8_e4m3fn: False, torch.bfloat16: True, torch.float16: True}
"""Of what is multiplied, and whether that is without scales."""


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
    if call.blocks is None or b.dtype not in _DTYPES or (scales == "none") != _DTYPES[b.dtype]:
        return False
    if config[:3] != (128, 256, 128 // b.dtype.itemsize) or call.out_dtype.itemsize != 2:
        return False
    split = activation is not None and activation_form(activation.name)[1:] == (True, False)
    transposed = b.strides[2] != 1
    stride = b.strides[2 if transposed else 1]
    # Triton knows multiples of 16, so that what is copied begins at 16 bytes; experts in a row.
    if k % 16 or a.strides[0] % 16 or stride % 16 or b.strides[0] % stride or a.strides[1] != 1:
        return False
    gated = activation is not None and activation_form(activation.name).gated
    if call.out_is_sorted and (rows // 2 if gated else rows) % 8:
        return False
    if transposed:
        # Beyond an expert's rows there are another's; and neighbours are loaded at once.
        whole = b.dtype.itemsize == 2 and k % config.block_k == 0
        return b.strides[1] == 1 and whole and not split
    if block_shape is None:
        return True
    group_n, group_k = block_shape
    across, along = strides[:2]  # rows of scales; sorted ones are loaded by TMA
    part = config.block_n // 2
    return (
        group_k == config.block_k
        and group_n % part == 0
        and (not split or rows // 2 % part == 0)
        and strides[4] == (across if call.a_is_sorted else along) == 1
        and (not call.a_is_sorted or along % 4 == 0)
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
    transposed = b.strides[2] != 1
    stride = b.strides[2 if transposed else 1]
    expert_rows = b.strides[0] // stride
    group_n, group_k = block_shape or (0, 0)
    settings = settings_of(
        HopperSettings,
        **launch.settings,
        mask_k=k % call.config.block_k != 0,
        halves=True,
        quantized=scales != "none",
        input_precision="tf32",
        block_k=call.config.block_k,
        scales=scales,
        group_n=group_n,
        group_k=group_k,
        one_b_scale=strides[3] == 0,
        a_is_sorted=call.a_is_sorted,
        out_is_sorted=call.out_is_sorted,
        b_is_transposed=transposed,
    )
    layout = gl.NVMMASharedLayout(128, 8 * b.dtype.itemsize, 2)
    rows_of_expert, columns = (k, n) if transposed else (n, k)
    shape = [(experts - 1) * expert_rows + rows_of_expert, columns]
    block = [call.config.block_n // 2, call.config.block_k]
    if transposed:
        block = [call.config.block_k, call.config.block_n]

    def weight(x: torch.Tensor) -> TensorDescriptor:
        return TensorDescriptor(x, shape, [stride, 1], block, layout)

    def rows(x: torch.Tensor) -> TensorDescriptor:
        half = [call.config.block_m // 2, call.config.block_k]
        return TensorDescriptor(x, list(a.shape), [a.strides[0], 1], half, layout)

    def scales_of_rows(x: torch.Tensor) -> TensorDescriptor:
        across = [-(-k // group_k), a.shape[0]]
        block, unswizzled = [1, call.config.block_m], gl.NVMMASharedLayout(0, 32, 2)
        return TensorDescriptor(x, across, [strides[1], 1], block, unswizzled)

    def result(x: torch.Tensor) -> TensorDescriptor:
        block = [call.config.block_m // 2, call.config.block_n // 2]
        swizzled = gl.NVMMASharedLayout(128, 16, 2)
        return TensorDescriptor(
            x, [launch.sorted_rows, launch.width], [launch.width, 1], block, swizzled
        )

    described = {1: weight}
    if settings.stores_by_tma:
        described[2] = result
    if call.a_is_sorted:
        described[0] = rows
        if scales == "block":
            described[3] = scales_of_rows
    stride_asm, _, stride_bse, stride_bsn, _ = strides
    sizes = (expert_rows, n, k, launch.width, call.num_pairs, call.top_k)
    scale_strides = (a.strides[0], stride_asm, stride_bse, stride_bsn)
    return Launcher(
        _fused_moe_gemm_hopper_kernel,
        (min(launch.grid[0], multiprocessors(b.device)),),
        (*sizes, *scale_strides, *launch.activation),
        {"S": settings},
        described,
        num_warps=4,
        **launch_attributes(b.device),
    )
