"""Compile the programs for few rows for Hopper, and print their machine code (``machine_code.py``).

Arguments: format:tokens, for example int4:1. The instructions of both GEMMs of each.
"""

from __future__ import annotations

from checkpoints import converted
from machine_code import compiling, instructions, print_for_words
from moe_kernels.experts import layer_launches
from moe_kernels.ops import fused_moe_gemm_few_rows, gemm_launch
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer
from moe_kernels.tiling.layer_config import trial
from moe_kernels.tiling.tile_config import FEW_ROWS, LayerConfig, TileConfig

from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

FORMATS = {
    "bf16": ("TritonExperts", None, None),
    "fp8_block": ("TritonExperts", "kFp8Static128BlockSym", "kFp8Dynamic128Sym"),
    "int4": ("TritonWNA16Experts", "kInt4Static", None),
    "int8": ("TritonWNA16Experts", "kInt8Static", None),
    "mxfp4": ("OAITritonExperts", "kMxfp4Static", None),
}
TILE = TileConfig(FEW_ROWS, 16, 64, 1, 4, 2)


def code(fmt: str, tokens: str) -> list[list[str]]:
    """The instructions of both GEMMs of a layer."""
    name, *keys = FORMATS[fmt]
    config = FusedMoEConfig(4, 2, 4608, 512)  # so long that there is a loop over turns
    keys = [None if key is None else NAMED_KEYS[key] for key in keys]
    ready = converted(random_layer(config, *keys, int(tokens), group_size=128), name)
    with compiling("few_rows_kernel") as found, trial(LayerConfig(TILE, TILE)):
        bind(name, config, ready.quant_config).apply(**ready.arguments())
    return [instructions(kernel) for kernel in found]


if __name__ == "__main__":
    layer_launches.require_gpu = lambda device: None
    for module in (fused_moe_gemm_few_rows, gemm_launch):
        module.is_programmatic = lambda device: True
    print_for_words(code)
