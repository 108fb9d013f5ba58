"""How stored weights and their scales become numbers, in LLVM's language.

Small floats take the way over fp16, which x86 and Arm widen eight and more at a time, subnormal
numbers included: moved to where fp16 has sign, exponent and mantissa, their bits are the number
times a power of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llvmlite import ir

from moe_kernels.cpu.llvm import STEP
from moe_kernels.cpu.llvm.emit import (
    FLOAT,
    HALF,
    INT8,
    INT16,
    INT32,
    element,
    int64,
    parts,
    repeated,
    vector,
)

Load = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]
"""Of an address and an index there, a float."""


@dataclass(frozen=True)
class Format:
    """One format of weights."""

    bits: int
    """Per weight."""
    decode: Callable[[ir.IRBuilder, ir.Value, int], list[ir.Value]]
    """STEP weights from an address, as vectors of so many floats."""
    factor: float = 1.0
    """What the results still have to be multiplied by."""
    zero: float | None = None
    """What is taken from the results before they are scaled, if there are no zero points."""

    @property
    def halves(self) -> bool:
        """Whether the first half of the results are the even weights, the second half the odd."""
        return self.bits == 4


def _fp32(b: ir.IRBuilder, address: ir.Value, width: int) -> list[ir.Value]:
    return parts(b, element(b, address, int64(0), vector(FLOAT, STEP)), width)


def _bf16(b: ir.IRBuilder, address: ir.Value, width: int) -> list[ir.Value]:
    stored = element(b, address, int64(0), vector(INT16, STEP))
    return [
        b.bitcast(
            b.shl(b.zext(part, vector(INT32, width)), repeated(INT32, 16, width)),
            vector(FLOAT, width),
        )
        for part in parts(b, stored, width)
    ]


def _fp16(b: ir.IRBuilder, address: ir.Value, width: int) -> list[ir.Value]:
    return _widened(b, element(b, address, int64(0), vector(INT16, STEP)), width)


def _widened(b: ir.IRBuilder, bits: ir.Value, width: int) -> list[ir.Value]:
    """The bits of fp16 numbers as floats."""
    return [
        b.fpext(b.bitcast(part, vector(HALF, width)), vector(FLOAT, width))
        for part in parts(b, bits, width)
    ]


def _fp8(b: ir.IRBuilder, address: ir.Value, width: int) -> list[ir.Value]:
    stored = element(b, address, int64(0), vector(INT8, STEP))
    # The sign stands in both bits 14 and 15 then.
    moved = b.shl(b.sext(stored, vector(INT16, STEP)), repeated(INT16, 7, STEP))
    return _widened(b, b.and_(moved, repeated(INT16, ~0x4000, STEP)), width)


def _int8(b: ir.IRBuilder, address: ir.Value, width: int) -> list[ir.Value]:
    stored = element(b, address, int64(0), vector(INT8, STEP))
    return [
        b.sitofp(b.sext(part, vector(INT32, width)), vector(FLOAT, width))
        for part in parts(b, stored, width)
    ]


def _mxfp4(b: ir.IRBuilder, address: ir.Value, width: int) -> list[ir.Value]:
    pairs = STEP // 2
    both = b.sext(element(b, address, int64(0), vector(INT8, pairs)), vector(INT16, pairs))
    even = b.ashr(b.shl(both, repeated(INT16, 12, pairs)), repeated(INT16, 3, pairs))
    odd = b.shl(both, repeated(INT16, 5, pairs))
    # The sign, two bits of the exponent, one of the mantissa; copies of the sign between.
    kept = repeated(INT16, 0x8E00 - (1 << 16), pairs)
    return [part for bits in (even, odd) for part in _widened(b, b.and_(bits, kept), width)]


def _int4(b: ir.IRBuilder, address: ir.Value, width: int) -> list[ir.Value]:
    pairs = STEP // 2
    both = element(b, address, int64(0), vector(INT8, pairs))
    even = b.and_(both, repeated(INT8, 15, pairs))
    odd = b.lshr(both, repeated(INT8, 4, pairs))
    return [
        b.sitofp(b.zext(part, vector(INT32, width)), vector(FLOAT, width))
        for nibbles in (even, odd)
        for part in parts(b, nibbles, width)
    ]


FORMATS: Mapping[str, Format] = {
    "fp32": Format(32, _fp32),
    "bf16": Format(16, _bf16),
    "fp16": Format(16, _fp16),
    "fp8": Format(8, _fp8, factor=2.0**8),
    "int8": Format(8, _int8),
    "int4": Format(4, _int4, zero=8.0),
    "mxfp4": Format(4, _mxfp4, factor=2.0**14),
}
"""By the names of :mod:`moe_kernels.quantization.schemes`, and of dtypes."""


def _bf16_scale(b: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    bits = b.zext(element(b, base, index, INT16), INT32)
    return b.bitcast(b.shl(bits, ir.Constant(INT32, 16)), FLOAT)


def _e8m0_scale(b: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    stored = b.zext(element(b, base, index, INT8), INT32)
    bits = b.shl(stored, ir.Constant(INT32, 23))
    for special, value in ((0, 1 << 22), (255, 0x7FC00000)):  # 2^-127 and NaN
        found = b.icmp_unsigned("==", stored, ir.Constant(INT32, special))
        bits = b.select(found, ir.Constant(INT32, value), bits)
    return b.bitcast(bits, FLOAT)


SCALES: Mapping[str, Load] = {
    "fp32": lambda b, base, index: element(b, base, index, FLOAT),
    "fp16": lambda b, base, index: b.fpext(element(b, base, index, HALF), FLOAT),
    "bf16": _bf16_scale,
    "e8m0": _e8m0_scale,
}
"""By dtype."""

ZERO_POINTS: Mapping[str, Load] = {
    "uint8": lambda b, base, index: b.uitofp(element(b, base, index, INT8), FLOAT),
    "int8": lambda b, base, index: b.sitofp(element(b, base, index, INT8), FLOAT),
}
"""By dtype."""
