"""The 4- and 6-bit floating-point elements of the OCP Microscaling specification.

OCP Microscaling Formats (MX) Specification 1.0, section 5.3: sign, exponent and mantissa bits,
subnormal numbers, and neither infinities nor NaN. Codes are the bits, sign first, in the low end
of a byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Minifloat:
    """A format of ``1 + exponent_bits + mantissa_bits`` bits."""

    name: str
    exponent_bits: int
    mantissa_bits: int

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is added to an exponent to store it."""
        return int(2 ** (self.exponent_bits - 1)) - 1

    @property
    def emax(self) -> int:
        """The exponent of the largest number."""
        return int(2**self.exponent_bits) - 1 - self.bias

    @property
    def max(self) -> float:
        """The largest number."""
        return float((2.0 - 2.0**-self.mantissa_bits) * 2.0**self.emax)

    def values(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The non-negative numbers in the order of their codes, float32."""
        code = torch.arange(2 ** (self.bits - 1), dtype=torch.int32, device=device)
        fraction, exponent = code % 2**self.mantissa_bits, code // 2**self.mantissa_bits
        significand = fraction * 2.0**-self.mantissa_bits + (exponent > 0)
        magnitude: torch.Tensor = significand * _power_of_two(exponent.clamp(min=1) - self.bias)
        return magnitude


E2M1 = Minifloat("e2m1", 2, 1)
E2M3 = Minifloat("e2m3", 2, 3)
E3M2 = Minifloat("e3m2", 3, 2)
MINIFLOATS = {element.name: element for element in (E2M1, E2M3, E3M2)}


def _power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent, exactly, as float32 for int32 exponents of its normal numbers."""
    return (exponent + 127 << 23).view(torch.float32)


def round_to(x: torch.Tensor, element: Minifloat) -> torch.Tensor:
    """``x`` as float32, rounded to the nearest number of ``element`` (ties to even), saturating."""
    x = x.float().clamp(-element.max, element.max)
    # frexp gives a significand in [0.5, 1): its exponent is one more than that of [1, 2).
    exponent = (torch.frexp(x).exponent - 1).clamp(min=1 - element.bias)
    unit = _power_of_two(exponent - element.mantissa_bits)
    return torch.round(x / unit) * unit


def encode(x: torch.Tensor, element: Minifloat) -> torch.Tensor:
    """The codes (uint8) of ``x`` rounded to ``element``. NaN has none, and becomes some number."""
    rounded = round_to(x, element)
    magnitude = torch.bucketize(rounded.abs(), element.values(x.device))
    sign = torch.signbit(rounded).to(torch.uint8) << (element.bits - 1)
    return magnitude.to(torch.uint8) | sign


def decode(codes: torch.Tensor, element: Minifloat) -> torch.Tensor:
    """The numbers (float32) of uint8 ``codes``, whose bits above the format's are ignored."""
    table = element.values(codes.device)
    table = torch.cat([table, -table])
    index = (codes & (2**element.bits - 1)).int()
    # On a CPU far faster than indexing.
    return table.index_select(0, index.flatten()).view(codes.shape)
