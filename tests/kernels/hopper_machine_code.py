"""Compile GEMMs whose warpgroups share the work; print their machine code (``machine_code.py``).

Arguments: mode:activation, as fp8_block:silu, or fp8_block: for none; sorted_fp8_block: and so on,
where rows of A are sorted, and those of the result, if there is an activation; transposed_bf16:
where the weight lies so; of packed weights format:tile, as int4:16,128,256,1,8,4.
"""

from __future__ import annotations

import torch
from machine_code import compiling, instructions, print_for_words
from moe_kernels.activation import ActivationParameters
from moe_kernels.layouts.unpacked_in_triton import in_units
from moe_kernels.ops import fused_moe_gemm_quantized as packed
from moe_kernels.ops.fused_moe_gemm import fused_moe_gemm
from moe_kernels.ops.fused_moe_gemm_quantized import WeightTensors, fused_moe_gemm_quantized
from moe_kernels.ops.gemm_launch import FusedActivation
from moe_kernels.ops.moe_align_block_size import SortedPairs
from moe_kernels.quantization.words import word_columns
from moe_kernels.tiling.tile_config import TileConfig

MODES = {"fp8_channel": None, "fp8_block": (128, 128), "bf16": None}
"""And the shape of blocks that have a scale."""


def code(mode: str, detail: str) -> list[str]:
    """The instructions, without modifiers, of a GEMM of this mode, or format of packed weights."""
    names = ("_fused_moe_gemm_hopper_kernel", "_fused_moe_gemm_quantized_hopper_kernel")
    with compiling(*names) as found:
        if (scheme := mode.removeprefix("sorted_").removeprefix("transposed_")) in MODES:
            gemm(scheme, detail, mode.startswith("sorted_"), mode.startswith("transposed_"))
        else:
            packed_gemm(mode, TileConfig(*map(int, detail.split(",")), warp_specialized=True))
    (kernel,) = found
    return [name.split(".")[0] for name in instructions(kernel)]


EXPERTS, N, K, ROWS = 2, 512, 512, 16


def pairs() -> SortedPairs:
    """As sorted, but for what they are."""
    return SortedPairs(*[torch.zeros(256, dtype=torch.int32)] * 5)


def gemm(mode: str, activation: str, rows_are_sorted: bool, is_transposed: bool) -> None:
    """A GEMM with FP8 or bf16 weights."""
    block_shape = MODES[mode]
    block_n, block_k = block_shape or (1, K)
    has_scales = mode != "bf16"
    a_scale = torch.zeros(K // block_k, ROWS).t() if has_scales else None
    if a_scale is not None and not rows_are_sorted:
        a_scale = a_scale.contiguous()
    dtype = torch.float8_e4m3fn if has_scales else torch.bfloat16
    b = torch.zeros(EXPERTS, K, N).mT if is_transposed else torch.zeros(EXPERTS, N, K)
    fused_moe_gemm(
        torch.zeros(ROWS, K).to(dtype),
        b.to(dtype),
        pairs(),
        2 * ROWS,
        2,
        TileConfig(128, 256, 128 // dtype.itemsize, 1, 8, 4, warp_specialized=True),
        torch.bfloat16,
        a_scale=a_scale,
        b_scale=torch.zeros(EXPERTS, N // block_n, K // block_k) if has_scales else None,
        block_shape=block_shape,
        activation=FusedActivation(activation, ActivationParameters()) if activation else None,
        a_is_sorted=rows_are_sorted,
        out_is_sorted=rows_are_sorted and activation != "",
    )


def packed_gemm(weight_format: str, tile: TileConfig) -> None:
    """A GEMM with packed weights, integers in groups of 128."""
    group, dtype = (32, torch.uint8) if weight_format == "mxfp4" else (128, torch.bfloat16)
    fused_moe_gemm_quantized(
        torch.zeros(ROWS, K, dtype=torch.bfloat16),
        WeightTensors(
            torch.zeros(EXPERTS, N, word_columns(K, weight_format), dtype=torch.uint8),
            in_units(torch.zeros(EXPERTS, N, K // group, dtype=dtype)),
        ),
        weight_format,
        pairs(),
        2 * ROWS,
        2,
        tile,
        torch.bfloat16,
        activation=FusedActivation("silu", ActivationParameters()),
    )


if __name__ == "__main__":
    packed.specializes_warps = packed._has_packed_arithmetic = lambda device: True
    print_for_words(code)
