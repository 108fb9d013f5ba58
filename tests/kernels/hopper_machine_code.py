"""Compile GEMMs for Hopper without a GPU, and print their machine code's instructions as JSON.

Arguments: mode:activation, as fp8_block:silu, or fp8_block: for none. For a process of its own,
without Triton's interpreter. Nothing is launched: Triton is told of a device that is not there.
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
from moe_kernels.ops.fused_moe_gemm import fused_moe_gemm
from moe_kernels.ops.gemm_launch import FusedActivation
from moe_kernels.ops.moe_align_block_size import SortedPairs
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


def compiled(mode: str, activation: str) -> CompiledKernel:
    """The kernel that a GEMM of this mode launches."""
    experts, n, k, rows = 2, 512, 512, 16
    a = torch.zeros(rows, k).to(torch.float8_e4m3fn)
    b = torch.zeros(experts, n, k).to(torch.float8_e4m3fn)
    block_shape = MODES[mode]
    block_n, block_k = block_shape or (1, k)
    found = []
    launched = JITFunction.run

    def compile_only(self: JITFunction, *args: object, **options: object) -> None:
        found.append(launched(self, *args, **options | {"warmup": True}))

    JITFunction.run = compile_only
    try:
        fused_moe_gemm(
            a,
            b,
            SortedPairs(*[torch.zeros(128, dtype=torch.int32)] * 3),
            2 * rows,
            2,
            TileConfig(128, 256, 128, 1, 8, 4, warp_specialized=True),
            torch.bfloat16,
            a_scale=torch.zeros(rows, k // block_k),
            b_scale=torch.zeros(experts, n // block_n, k // block_k),
            block_shape=block_shape,
            activation=FusedActivation(activation, ActivationParameters()) if activation else None,
        )
    finally:
        JITFunction.run = launched
    (kernel,) = found
    return kernel


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
    with contextlib.redirect_stdout(sys.stderr):
        words = [word.partition(":") for word in sys.argv[1:]]
        result = [instructions(compiled(mode, activation)) for mode, _, activation in words]
    print(json.dumps(result))
