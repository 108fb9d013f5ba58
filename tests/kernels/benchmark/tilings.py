"""A search for tilings whose answer is known, and what a record of one begins with."""

import math

from moe_kernels.tiling import tuned_configs
from moe_kernels.tiling.tile_config import LayerConfig, TileConfig

TORCH, TRITON = tuned_configs.versions()
FACTS = {"device": "Test GPU", "date": "2026-11-27", "torch": TORCH, "triton": TRITON}

START = LayerConfig(TileConfig(16, 64, 64, 1, 4, 4), TileConfig(16, 64, 64, 1, 4, 4))


def separable(config: LayerConfig) -> float:
    """A time that is least for one tile of each GEMM, whatever the other's is."""
    up, down = config
    time = abs(math.log2(up.block_n / 128)) + abs(math.log2(down.block_n / 32))
    return 10 + time + abs(math.log2(up.block_m / 32)) + (up.group_m - 1) / 8
