"""Programs in LLVM's own language that multiply stored weights, compiled for the CPU at hand.

Only :mod:`moe_kernels.cpu.compiled` imports these modules, where llvmlite is installed.
"""

from typing import NamedTuple

STEP = 32
"""The weights that are read at a time; what K and the columns of a scale are multiples of."""

TILE = 16
"""Rows of weights, and of tokens, in a product of matrix units."""


class Kind(NamedTuple):
    """What a program is made for: names in FORMATS, SCALES and ZERO_POINTS, None: has none.

    These are in :mod:`moe_kernels.cpu.llvm.formats`.
    """

    fmt: str
    scale: str | None
    zero_point: str | None
