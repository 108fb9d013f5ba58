"""Compile the programs for few rows for Hopper without a GPU, and print their machine code.

Arguments: format:tokens, for example int4:1. Prints, as JSON, the names of the instructions of both
GEMMs of each. For a process of its own, without Triton's interpreter. Nothing is launched: Triton
is told of a device that is not there.
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
from checkpoints import converted
from moe_kernels.experts import two_gemms
from moe_kernels.ops import fused_moe_gemm_few_rows, gemm_launch
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer
from moe_kernels.tiling.layer_config import trial
from moe_kernels.tiling.tile_config import FEW_ROWS, LayerConfig, TileConfig
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
FORMATS = {
    "bf16": ("TritonExperts", None, None),
    "fp8_block": ("TritonExperts", "kFp8Static128BlockSym", "kFp8Dynamic128Sym"),
    "int4": ("TritonWNA16Experts", "kInt4Static", None),
    "int8": ("TritonWNA16Experts", "kInt8Static", None),
    "mxfp4": ("OAITritonExperts", "kMxfp4Static", None),
}
TILE = TileConfig(FEW_ROWS, 16, 64, 1, 4, 2)


def hopper() -> SimpleNamespace:
    """What Triton asks of the driver before a launch."""
    return SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_active_torch_device=lambda: torch.device("cpu"),
        launcher_cls=lambda *_: None,
    )


def compiled(fmt: str, tokens: int) -> list[CompiledKernel]:
    """The kernels of both GEMMs of a layer."""
    name, *keys = FORMATS[fmt]
    config = FusedMoEConfig(8, 2, 1024, 512)
    keys = [None if key is None else NAMED_KEYS[key] for key in keys]
    ready = converted(random_layer(config, *keys, tokens, group_size=128), name)
    found = []
    launched = JITFunction.run

    def compile_only(self: JITFunction, *args: object, **options: object) -> object:
        if self.fn.__name__ != "few_rows_kernel":
            return None
        found.append(launched(self, *args, **options | {"warmup": True}))
        return None

    JITFunction.run = compile_only
    try:
        with trial(LayerConfig(TILE, TILE)):
            bind(name, config, ready.quant_config).apply(**ready.arguments())
    finally:
        JITFunction.run = launched
    return found


def instructions(kernel: CompiledKernel) -> list[str]:
    """The names of the machine code's instructions, in order."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        command = [TOOLS / "nvdisasm", "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.findall(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9.]+)", text)


if __name__ == "__main__":
    driver.set_active(hopper())
    CompiledKernel._init_handles = lambda self: None
    two_gemms.require_gpu = lambda x: None
    for module in (fused_moe_gemm_few_rows, gemm_launch):
        module.is_programmatic = lambda device: True
    with contextlib.redirect_stdout(sys.stderr):
        words = [word.partition(":") for word in sys.argv[1:]]
        result = [
            [instructions(kernel) for kernel in compiled(fmt, int(tokens))]
            for fmt, _, tokens in words
        ]
    print(json.dumps(result))
