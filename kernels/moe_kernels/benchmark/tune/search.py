"""Which tilings are tried for a layer, and how the fastest is found with few measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from moe_kernels.tiling.tile_config import FEW_ROWS, LayerConfig, TileConfig

Timer = Callable[[LayerConfig, int], float]
"""Microseconds of a layer with a tiling, the median of so many replays; inf if it does not run."""

ROUNDS = ((1, 1.25), (5, 1.05), (15, 1.0))
"""Replays of each round, and how much slower than the fastest those may be that go on."""

WORTH = 0.99
"""A tiling replaces that of the rules of thumb if it takes less than so much of its time."""

LARGEST_STAGES = 224 * 1024
"""Bytes of shared memory for a pipeline; those that a device has no room for do not run."""

_Tiles = dict[int, tuple[tuple[int, int, int, int], ...]]
"""By rows of a tile: columns, bytes of a row of activations, warps, stages; likely ones first."""

_FEW_ROWS_TILES = (
    (16, 128, 4, 2),
    (16, 128, 8, 1),
    (16, 128, 4, 1),
    (16, 128, 8, 2),
    (16, 128, 16, 1),
    (16, 128, 2, 4),
    (32, 128, 4, 2),
)

_TILES: _Tiles = {
    FEW_ROWS: _FEW_ROWS_TILES,
    # Few rows: bytes of weights in flight count.
    16: (
        (128, 256, 4, 4),
        (64, 256, 4, 4),
        (64, 128, 4, 6),
        (128, 128, 4, 4),
        (128, 128, 4, 6),
        (32, 256, 4, 4),
        (64, 128, 4, 8),
        (128, 128, 4, 3),
    ),
    32: ((128, 256, 4, 3), (128, 128, 4, 4), (64, 256, 4, 4), (128, 128, 4, 3)),
    64: ((128, 128, 4, 4), (256, 128, 8, 3), (64, 128, 4, 4), (128, 128, 4, 3)),
    # Many rows: products count.
    128: (
        (256, 128, 8, 4),
        (128, 128, 8, 3),
        (256, 128, 8, 3),
        (128, 128, 4, 3),
        (128, 128, 8, 4),
    ),
}

_PACKED_TILES: _Tiles = {
    FEW_ROWS: _FEW_ROWS_TILES,
    # Few rows: unpacking counts.
    16: (
        (128, 256, 4, 3),
        (128, 128, 4, 6),
        (64, 256, 2, 3),
        (128, 256, 4, 4),
        (32, 256, 1, 4),
        (128, 512, 4, 2),
    ),
    32: ((128, 256, 4, 3), (128, 128, 4, 4), (64, 256, 2, 3)),
    64: ((128, 128, 4, 4), (128, 256, 4, 3)),
    128: ((128, 128, 4, 3), (128, 128, 4, 4)),
}
"""Of weights that are unpacked as they are loaded."""

_SPECIALIZED_PACKED_TILES = tuple(
    TileConfig(block_m, block_n, block_k, 1, warps, stages, True)
    for (block_m, block_n, block_k, warps), depths in {
        (16, 128, 128, 8): (8, 5),
        (16, 128, 256, 4): (4, 2),
        (32, 128, 128, 4): (6, 4),
        (32, 128, 256, 4): (3, 2),
        (64, 128, 128, 4): (4, 3),
        (64, 128, 256, 8): (4, 3),
        (128, 128, 128, 8): (5, 4),
        (128, 256, 128, 8): (4, 3),
        (256, 128, 128, 8): (3, 2),
    }.items()
    for stages in depths
)
"""Of those whose warpgroups share the work."""

_LOADS = {
    FEW_ROWS: (0, 8),
    16: (0, 24),
    32: (2, 64),
    64: (6, 256),
    128: (24, math.inf),
    256: (192, math.inf),
}
"""By rows of a tile: the pairs per expert for which it may be good."""

_GROUPS = (1, 2, 4, 8)
_GROUPED_LOAD = 64
"""From so many pairs per expert on, blocks of one expert take turns over its weight."""


def tiles_for(
    load: float,
    activation_bytes: int,
    rows: int,
    columns: int,
    packed: bool = False,
    specialized: bool = False,
) -> list[TileConfig]:
    """Tilings of one GEMM that may be good, for ``load`` pairs per expert.

    activation_bytes: of a number of A. rows, columns: the least of both GEMMs' weights. Tiles have
    no more columns, and no more rows unless all have. packed: weights are unpacked as they are
    loaded. specialized: warpgroups may share the work.
    """
    found = []
    tiles = _PACKED_TILES if packed else _TILES
    most_k = 1 << (columns.bit_length() - 1)
    for block_m, (least, most) in _LOADS.items():
        likely = tiles.get(block_m, ()) if least <= load <= most else ()
        for block_n, row_bytes, warps, stages in likely:
            block_k = min(row_bytes // activation_bytes, most_k)
            room = LARGEST_STAGES // ((block_m + block_n) * block_k * activation_bytes)
            for group in _GROUPS if load >= _GROUPED_LOAD else _GROUPS[:1]:
                fitting = max(2, min(stages, room))
                found.append(TileConfig(block_m, block_n, block_k, group, warps, fitting))
    if packed and specialized:
        for tile in _SPECIALIZED_PACKED_TILES:
            least, most = _LOADS[tile.block_m]
            groups = _GROUPS if load >= _GROUPED_LOAD else _GROUPS[:1]
            if least <= load <= most:
                found += [tile._replace(group_m=group) for group in groups]
    if specialized and not packed and load >= _GROUPED_LOAD:
        tile = TileConfig(128, 256, 128 // activation_bytes, 1, 8, 4, warp_specialized=True)
        found += [tile._replace(group_m=group) for group in _GROUPS]
    narrow = [tile for tile in found if tile.block_n <= rows]
    return list(dict.fromkeys(narrow or found))


@dataclass
class Search:
    """One search: measures with ``time_us`` until it is done or ``is_over()``."""

    time_us: Timer
    is_over: Callable[[], bool] = lambda: False
    times: dict[LayerConfig, float] = field(default_factory=dict)
    """The last measurement of each tiling."""

    def run(self, start: LayerConfig, tiles: Sequence[TileConfig]) -> LayerConfig:
        """The fastest tiling found; ``start`` is measured in any case, and stays if none is faster.

        First both GEMMs with the same tile, then each with another one of as many rows. All that
        is compared at the end was measured with the most replays.
        """
        # Groups are tried last, so that they do not double what is measured.
        self.times[start] = self.time_us(start, ROUNDS[0][0])
        largest = max((tile.group_m for tile in tiles), default=1)
        ungrouped = [tile for tile in tiles if tile.group_m == largest]
        best = self.race([start, *(LayerConfig(tile, tile) for tile in ungrouped)])
        for which in ("down", "up"):
            others = [tile for tile in ungrouped if tile.block_m == best.up.block_m]
            best = self.race([best, *(best._replace(**{which: tile}) for tile in others)])
        for group in sorted({tile.group_m for tile in tiles} - {largest}):
            other = LayerConfig(*(tile._replace(group_m=group) for tile in best))
            best = self.race([best, other])
        best = self.race([start, best])
        return best if self._time(best) < WORTH * self._time(start) else start

    def race(self, contenders: Iterable[LayerConfig]) -> LayerConfig:
        """The fastest of ``contenders``: all are measured briefly, the fast ones again for longer.

        When the search is over this ends early, with the fastest so far; the first one if none
        was measured.
        """
        left = list(dict.fromkeys(contenders))
        for replays, margin in ROUNDS:
            if len(left) == 1:
                break
            for config in left:
                if self.is_over():
                    return min(left, key=self._time)
                self.times[config] = self.time_us(config, replays)
            left.sort(key=self._time)
            fast = [c for c in left if self._time(c) <= margin * self._time(left[0])]
            left = fast[: max(2, len(left) // 2)]
        return left[0]

    def _time(self, config: LayerConfig) -> float:
        return self.times.get(config, math.inf)
