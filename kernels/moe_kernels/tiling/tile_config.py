"""How the two GEMMs of a layer are cut into programs, as numbers."""

from __future__ import annotations

from typing import NamedTuple

MAX_UNSORTED_PAIRS = 64
"""Up to so many (token, expert) pairs of a call, the programs of a GEMM find theirs themselves.

It takes them as long as the two launches of a sort do with twice as many.
"""


FEW_ROWS = 8
"""The ``block_m`` of the programs for few rows (:mod:`moe_kernels.ops.few_rows_programs`)."""

SOON_READ = 64 << 20
"""Up to so many bytes of weights are read in so short a time that what programs for few rows begin
and end with counts as much. Of more, several programs come one after the other."""


class TileConfig(NamedTuple):
    """How one GEMM is cut into programs."""

    block_m: int
    """Pairs of a program; also what sorted pairs are aligned to."""
    block_n: int
    """Rows of the weight of a program: two per output column of a gated activation."""
    block_k: int
    group_m: int
    """How many blocks of pairs take turns over the same rows of the weight.

    Where warpgroups share the work, and weights are not packed, those of one expert, and at most.
    """
    num_warps: int
    num_stages: int
    warp_specialized: bool = False
    """Whether warpgroups share the work, one loading, the others (of ``num_warps``) multiplying.

    On Hopper, where there is a kernel for that; elsewhere it makes no difference.
    """

    def __str__(self) -> str:
        """The numbers in a line."""
        return " ".join(map(str, self[:6])) + (" specialized" if self.warp_specialized else "")


class LayerConfig(NamedTuple):
    """The tilings of both GEMMs, with the same ``block_m``."""

    up: TileConfig
    down: TileConfig
