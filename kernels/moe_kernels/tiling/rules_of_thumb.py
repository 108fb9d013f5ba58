"""Rules of thumb for tilings, where none was measured near.

They are what a search over tilings (``docs/tuning.md``) found on an H200 with
Triton 3.6, for the shapes in :mod:`moe_kernels.benchmark.shapes`, put as simply as costs little.
"""

from __future__ import annotations

import math

import torch

from moe_kernels.tensor_spec import TensorSpec
from moe_kernels.tiling.devices import multiprocessors, shared_memory, specializes_warps
from moe_kernels.tiling.tile_config import (
    FEW_ROWS,
    MAX_UNSORTED_PAIRS,
    SOON_READ,
    LayerConfig,
    TileConfig,
)

_CACHE_BYTES = 50 << 20  # of Hopper's L2
_FEW_ROWS_PAIRS = {"int4": MAX_UNSORTED_PAIRS, "uint8": MAX_UNSORTED_PAIRS, "mxfp4": 16}
"""By weight format, up to how many pairs of as many experts the program for few rows is faster."""

_SPECIALIZED_FROM = {torch.float8_e4m3fn: 96, torch.bfloat16: 256, torch.float16: 256}
"""By what is multiplied, from how many pairs per expert on warpgroups that share it are faster."""


def rules_of_thumb(
    num_local_pairs: float,
    w13: TensorSpec,
    w2: TensorSpec,
    block_shape: tuple[int, int] | None = None,
    weight_format: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    few_rows: int = 0,
) -> LayerConfig:
    """Tilings for a layer, as :func:`moe_kernels.tiling.layer_config.layer_config` is asked."""
    load = num_local_pairs / w13.shape[0]
    if weight_format is not None:
        most = _FEW_ROWS_PAIRS.get(weight_format, 0) if few_rows else 0
        if load < 1 and num_local_pairs <= most and dtype == torch.bfloat16:
            return _few_rows_config(num_local_pairs, w13, w2, weight_format, few_rows)
        if _specialized_packed(num_local_pairs, load, w13, weight_format, dtype):
            tile = _specialized_packed_tile(load, w13, weight_format)
            return LayerConfig(tile, tile)
        block_m = 16 if load <= 12 else 32 if load <= 24 else 64 if load <= 160 else 128
        # A single token's experts have too few wide tiles to fill the multiprocessors.
        few = num_local_pairs * w13.shape[1] < 128 * multiprocessors(w13.device)
        narrow = 32 if few else 64 if weight_format == "uint8" else 128
        group_m = _group_m(load, block_m, w13)
        tile = _packed_tile(block_m, narrow, group_m, dtype)
        return LayerConfig(tile, tile)
    if few_rows and load < 1 and _few_fp8_rows(num_local_pairs, w13, w2):
        return _few_rows_config(num_local_pairs, w13, w2, "fp8", few_rows)
    if all(_specialized(load, weight, block_shape) for weight in (w13, w2)):
        # All of an expert's blocks, if they are not so many that rows of A are lost from the cache.
        tile = TileConfig(128, 256, 128 // w13.dtype.itemsize, 16, 8, 4, warp_specialized=True)
        return LayerConfig(tile, tile)
    block_m = _block_m(load, w13.dtype, block_shape is not None)
    up, down = (_tile(block_m, num_local_pairs, weight) for weight in (w13, w2))
    return LayerConfig(up, down)


def _specialized(load: float, weight: TensorSpec, block_shape: tuple[int, int] | None) -> bool:
    """Whether warpgroups share the work of the GEMM with ``weight`` [E, N, K].

    Its blocks of 128 rows must be full enough, for 16 bits so that their last ones do not count;
    less full where FP8 experts are so large that there are many tiles in any case. Weights of 16
    bits may lie transposed.
    """
    least = _SPECIALIZED_FROM.get(weight.dtype, math.inf)
    if weight.dtype == torch.float8_e4m3fn and _expert_bytes(weight) > _CACHE_BYTES:
        least /= 2
    return (
        load >= least
        and specializes_warps(weight.device)
        and block_shape in (None, (128, 128))
        and weight.shape[2] % 16 == max(weight.strides[1:]) % 16 == 0
        and (weight.strides[2] == 1 or (weight.strides[1] == 1 and weight.dtype.itemsize == 2))
    )


def _block_m(load: float, dtype: torch.dtype, scaled: bool) -> int:
    """Rows for ``load`` pairs per expert."""
    if load <= 12:
        return 16
    if load <= 24 and dtype.itemsize <= 2:
        return 32
    if load <= (48 if dtype.itemsize == 2 else 64) or scaled or dtype.itemsize == 4:
        # Sums that are scaled on the way, or not done by the matrix units, take registers.
        return 64
    return 128


def _expert_bytes(weight: TensorSpec) -> int:
    return weight.shape[1] * weight.shape[2] * weight.dtype.itemsize


def _group_m(load: float, block_m: int, weight: TensorSpec) -> int:
    """``group_m`` for ``load`` pairs per expert.

    The blocks of an expert take turns over its weight: other experts among them cost cache. But a
    weight that no cache holds is read anew for every group that has blocks of its expert, so
    there groups are large.
    """
    if load > block_m and _expert_bytes(weight) > _CACHE_BYTES:
        return 8
    return max(1, min(8, round(load / block_m)))


def _tile(block_m: int, num_local_pairs: float, weight: TensorSpec) -> TileConfig:
    """The tiling of the GEMM with ``weight`` [E, N, K], given its blocks of rows."""
    dtype, k = weight.dtype, weight.shape[2]
    group_m = _group_m(num_local_pairs / weight.shape[0], block_m, weight)
    block_k = 128 // dtype.itemsize  # a cache line
    if dtype == torch.float32:
        tile = TileConfig(block_m, 64, block_k, group_m, 4, 3)
    elif dtype.itemsize == 1 and block_m == 16:
        # Long sums need a deep pipeline, short ones few programs.
        n, stages = (64, 6) if k >= 1024 else (128, 3)
        tile = TileConfig(16, n, block_k, group_m, 4, stages)
    elif dtype.itemsize == 1 and block_m == 128:
        # FP8 has two sums, which are too many for four warps.
        warps, stages = (4, 3) if dtype == torch.int8 else (8, 4)
        tile = TileConfig(128, 128, block_k, group_m, warps, stages)
    elif block_m == 16 and weight.strides[2] != 1:
        # Of a weight that lies transposed wide tiles read longer runs, where there are many.
        n, stages = (128, 4) if weight.shape[1] > k else (64, 6)
        tile = TileConfig(16, n, block_k, group_m, 4, stages)
    elif block_m == 16:
        tile = TileConfig(16, 64, block_k, group_m, 4, 8)
    elif block_m == 32:
        tile = TileConfig(32, 128, block_k, group_m, 4, 3)
    elif block_m == 64:
        tile = TileConfig(64, 128, block_k, group_m, 4, 4)
    elif k < 512:
        # Little to sum: a short tail counts more than few bytes per product.
        tile = TileConfig(128, 128, block_k, group_m, 8, 3)
    else:
        tile = TileConfig(128, 256, block_k, group_m, 8, 4)
    return _fit(tile, dtype, weight.device)


def _packed_tile(block_m: int, narrow: int, group_m: int, dtype: torch.dtype) -> TileConfig:
    """The tiling of GEMMs with packed weights, given its blocks of rows.

    narrow: how many columns a tile of few rows has.
    """
    if dtype == torch.float32:
        return TileConfig(min(block_m, 64), 64, 64, group_m, 4, 2)
    if block_m >= 64:
        return TileConfig(block_m, 128, 64, group_m, 4, 4 if block_m == 64 else 3)
    return TileConfig(block_m, narrow, 128, group_m, narrow // 32, 4 if narrow == 32 else 3)


def _specialized_packed(
    num_local_pairs: float, load: float, w13: TensorSpec, weight_format: str, dtype: torch.dtype
) -> bool:
    """Whether GEMMs with packed weights are faster where warpgroups share the work.

    That is where sorted pairs cost little beside them.
    """
    bits = _SPECIALIZED_BITS.get(weight_format)
    few = num_local_pairs <= MAX_UNSORTED_PAIRS and load < 1
    return (
        bits is not None and dtype == torch.bfloat16 and not few and specializes_warps(w13.device)
    )


_SPECIALIZED_BITS = {"int4": 4, "mxfp4": 4, "uint8": 8}
_SPECIALIZED_PACKED = {
    # With few pairs, of a row at least 128 bytes are read at a time, and two programs share a
    # multiprocessor. With many, what is unpacked serves 256 of them, or stages lack room for that.
    4: (
        (8, TileConfig(16, 128, 256, 1, 4, 4, True)),
        (24, TileConfig(32, 128, 256, 1, 4, 3, True)),
        (100, TileConfig(64, 128, 128, 1, 4, 4, True)),
        (400, TileConfig(128, 128, 128, 1, 8, 5, True)),
        (math.inf, TileConfig(256, 128, 128, 1, 8, 3, True)),
    ),
    8: (
        (8, TileConfig(16, 128, 128, 1, 8, 5, True)),
        (24, TileConfig(32, 128, 128, 1, 4, 4, True)),
        (48, TileConfig(64, 128, 128, 1, 4, 3, True)),
        (400, TileConfig(128, 128, 128, 1, 8, 4, True)),
        (math.inf, TileConfig(128, 256, 128, 1, 8, 3, True)),
    ),
}
"""By the bits of a weight, up to how many pairs per expert a tiling is good."""


def _specialized_packed_tile(load: float, weight: TensorSpec, weight_format: str) -> TileConfig:
    """The tiling of the GEMMs with packed weights whose warpgroups share the work."""
    tiles = _SPECIALIZED_PACKED[_SPECIALIZED_BITS[weight_format]]
    tile = next(tile for most, tile in tiles if load <= most)
    return tile._replace(group_m=_group_m(load, tile.block_m, weight))


def _few_fp8_rows(num_local_pairs: float, w13: TensorSpec, w2: TensorSpec) -> bool:
    """Whether the program for few rows is faster for FP8 experts.

    The other kernel's tiles are wide, which leaves multiprocessors without one, or with a short one
    where rows of the second weight are short.
    """
    read = num_local_pairs * (w13.shape[1] * w13.shape[2] + w2.shape[1] * w2.shape[2])
    few = read <= SOON_READ or w2.shape[2] <= 256
    return w13.dtype == torch.float8_e4m3fn and num_local_pairs <= MAX_UNSORTED_PAIRS and few


def _few_rows_config(
    num_local_pairs: float, w13: TensorSpec, w2: TensorSpec, stored: str, few_rows: int
) -> LayerConfig:
    """The tilings of the program for few rows, for experts that are ``stored`` as a format.

    A token alone takes many warps, so that enough is on its way; of several tokens there are many
    programs, and what each of them begins with counts more.
    """
    size = 64 if stored in ("int4", "mxfp4") else 128  # bytes of a chunk, one of a warp at a time
    up, down = (-(-w.shape[2] * w.dtype.itemsize // size) for w in (w13, w2))
    one_token = few_rows > 1
    if num_local_pairs * w13.shape[1] < 64 * multiprocessors(w13.device):
        first = _few_rows_tile(8, 2 if one_token else 1, 16)
    elif not one_token:
        first = _few_rows_tile(2, 2, 32 if stored == "mxfp4" else 16)
    elif num_local_pairs * _expert_bytes(w13) > SOON_READ:
        first = _few_rows_tile(4, 2, 32)
    elif stored == "uint8" and up <= 16:
        first = _few_rows_tile(2, 4, 16)
    else:
        first = _few_rows_tile(4, 2, 16)
    if one_token:
        warps = max(1, 8 // few_rows)  # of each expert
        turns = -(-down // warps)
        stages = turns if turns <= 6 else 4 if turns <= 16 or size == 64 else 2
        many = w2.shape[1] >= 32 * multiprocessors(w2.device)
        second = _few_rows_tile(8, stages, 32 if many or (down >= 64 and size == 64) else 16)
    elif down >= 8:
        second = _few_rows_tile(4 if num_local_pairs < 2 else 2, 2, 16)
    else:
        second = _few_rows_tile(1, min(down, 3), 32)
    return LayerConfig(first, second)


def _few_rows_tile(warps: int, stages: int, rows: int) -> TileConfig:
    return TileConfig(FEW_ROWS, rows, 64, 1, warps, stages)


def _fit(tile: TileConfig, dtype: torch.dtype, device: torch.device) -> TileConfig:
    """``tile`` with no more stages than shared memory has room for."""
    # A pipeline of s stages holds s tiles of A and of B.
    stage = (tile.block_m + tile.block_n) * tile.block_k * dtype.itemsize
    room = shared_memory(device) - 4096  # scales, and what the compiler adds
    return tile._replace(num_stages=max(1, min(tile.num_stages, room // stage)))
