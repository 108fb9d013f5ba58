"""What the tables are about: platforms, and the oracles that select on them."""

from __future__ import annotations

from typing import Literal, get_args

PlatformName = Literal["cuda", "rocm", "xpu", "cpu", "tpu", "out_of_tree", "unspecified"]
"""A kind of device, which has rule files of its own."""

OracleName = Literal[
    "unquantized",
    "fp8",
    "int8",
    "int_wna16",
    "mxfp4",
    "mxfp4_deepseek_v4",
    "mxfp8",
    "nvfp4",
    "w4a8",
    "w4a8_int8",
]
"""A kind of MoE layer, by its quantization, with one table on each platform that selects for it."""

PLATFORMS: tuple[str, ...] = get_args(PlatformName)
ORACLES: tuple[str, ...] = get_args(OracleName)
