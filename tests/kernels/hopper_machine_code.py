"""Compile GEMMs for Hopper without a GPU, and print their machine code's instructions as JSON.

Arguments: mode:activation, as fp8_block:silu, or fp8_block: for none; of packed weights
format:tile, as int4:16,128,256,1,8,4. For a process of its own, without the interpreter of Triton.
Nothing is launched: Triton is told of a device that is not there.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from moe_kernels.activation import ActivationParameters
from moe_kernels.layouts.unpacked_in_triton import in_units
from moe_kernels.ops import fused_moe_gemm_quantized as packed
from moe_kernels.ops.fused_moe_gemm import fused_moe_gemm
from moe_kernels.ops.fused_moe_gemm_quantized import WeightTensors, fused_moe_gemm_quantized
from moe_kernels.ops.gemm_launch import FusedActivation
from moe_kernels.ops.moe_align_block_size import SortedPairs
from moe_kernels.quantization.words import word_columns
from moe_kernels.tiling.tile_config import TileConfig
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
MODES = {"fp8_channel": None, "fp8_block": (128, 128)}
"""And the shape of blocks that have a scale."""


def hopper() -> SimpleNamespace:
    """What Triton asks of the driver before a launch."""
    return SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_active_torch_device=lambda: torch.device("cpu"),
    )


def compiled(mode: str, detail: str) -> CompiledKernel:
    """The kernel that a GEMM of this mode, or of this format of packed weights, launches."""
    found = []
    launched = JITFunction.run

    def compile_only(self: JITFunction, *args: object, **options: object) -> None:
        found.append(launched(self, *args, **options | {"warmup": True}))

    JITFunction.run = compile_only
    try:
        if mode in MODES:
            scaled_gemm(mode, detail)
        else:
            packed_gemm(mode, TileConfig(*map(int, detail.split(",")), warp_specialized=True))
    finally:
        JITFunction.run = launched
    (kernel,) = found
    return kernel


EXPERTS, N, K, ROWS = 2, 512, 512, 16


def pairs() -> SortedPairs:
    """As sorted, but for what they are."""
    return SortedPairs(*[torch.zeros(256, dtype=torch.int32)] * 3)


def scaled_gemm(mode: str, activation: str) -> None:
    """A GEMM with FP8 weights."""
    block_shape = MODES[mode]
    block_n, block_k = block_shape or (1, K)
    fused_moe_gemm(
        torch.zeros(ROWS, K).to(torch.float8_e4m3fn),
        torch.zeros(EXPERTS, N, K).to(torch.float8_e4m3fn),
        pairs(),
        2 * ROWS,
        2,
        TileConfig(128, 256, 128, 1, 8, 4, warp_specialized=True),
        torch.bfloat16,
        a_scale=torch.zeros(ROWS, K // block_k),
        b_scale=torch.zeros(EXPERTS, N // block_n, K // block_k),
        block_shape=block_shape,
        activation=FusedActivation(activation, ActivationParameters()) if activation else None,
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


def instructions(kernel: CompiledKernel) -> list[str]:
    """The names of the machine code's instructions, in order."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        command = [TOOLS / "nvdisasm", "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9.]+)", text)
    return [name.split(".")[0] for name in found]


if __name__ == "__main__":
    driver.set_active(hopper())
    packed.specializes_warps = packed._has_packed_arithmetic = lambda device: True
    with contextlib.redirect_stdout(sys.stderr):
        words = [word.partition(":") for word in sys.argv[1:]]
        result = [instructions(compiled(mode, detail)) for mode, _, detail in words]
    print(json.dumps(result))
