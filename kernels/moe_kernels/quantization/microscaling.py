"""Microscaling (MX) formats and NVFP4: groups of small floats with small shared scales.

MX: 32 elements (e2m1, e2m3, e3m2 or e4m3) share a power of two stored as e8m0, the biased
exponent in a uint8 (OCP Microscaling Formats Specification 1.0). NVFP4: 16 e2m1 elements share an
e4m3 scale, and the tensor has a second, float32 scale (NVIDIA's "Introducing NVFP4").
Groups lie along the last dimension; a last group may be shorter.
"""

from __future__ import annotations

from typing import Literal

import torch

from moe_kernels.quantization.minifloat import E2M1, MINIFLOATS, round_to
from moe_kernels.quantization.quotient import quotient

MX_GROUP = 32
NVFP4_GROUP = 16
E4M3_MAX = 448.0
_E4M3_TINY = 2.0**-6  # the smallest normal number

ScaleMode = Literal["floor", "even", "ceil"]
"""How the shared power of two follows from a group's largest magnitude:

- floor: its exponent less that of the element's largest number (the specification, 6.3). The
  largest elements may saturate.
- even: the same, after rounding it to the element's mantissa. AMD Quark's default.
- ceil: the least with which nothing saturates. NVIDIA's choice for MXFP8.
"""


def decode_e8m0(scale: torch.Tensor) -> torch.Tensor:
    """The powers of two (float32) of e8m0 bits in a uint8; 255 is NaN."""
    bits = scale.to(torch.int32) << 23
    # 0 stands for 2^-127, which float32 holds as a subnormal number.
    value = torch.where(scale == 0, 1 << 22, bits).view(torch.float32)
    return torch.where(scale == 255, torch.nan, value)


def expand_groups(scale: torch.Tensor, columns: int, group: int | None = None) -> torch.Tensor:
    """[..., G] scales as [..., columns], or as they are if one holds for all.

    ``group`` None: the groups divide the columns.
    """
    groups = scale.shape[-1]
    if groups == 1:
        return scale
    return scale.repeat_interleave(group or columns // groups, -1)[..., :columns]


def _group_amax(x: torch.Tensor, group: int) -> torch.Tensor:
    groups = -(-x.shape[-1] // group)
    padded = torch.nn.functional.pad(x.float().abs(), (0, groups * group - x.shape[-1]))
    return padded.reshape(*x.shape[:-1], groups, group).amax(dim=-1)


def mx_scale(x: torch.Tensor, element: str, mode: ScaleMode) -> torch.Tensor:
    """The e8m0 scales (uint8) of groups of 32 of ``x`` [..., K]: [..., ceil(K / 32)]."""
    amax = _group_amax(x, MX_GROUP)
    if element == "e4m3":
        mantissa_bits, emax, largest = 3, 8, E4M3_MAX
    else:
        minifloat = MINIFLOATS[element]
        mantissa_bits, emax, largest = minifloat.mantissa_bits, minifloat.emax, minifloat.max
    if mode == "ceil":
        bits = quotient(amax, largest).view(torch.int32)
        biased = (bits >> 23) + ((bits & 0x7FFFFF) > 0)
    else:
        bits = amax.view(torch.int32)
        if mode == "even":
            bits = bits + (1 << (22 - mantissa_bits))
        biased = (bits >> 23) - emax
    return biased.clamp(0, 254).to(torch.uint8)


def round_mx(x: torch.Tensor, scale: torch.Tensor, element: str) -> torch.Tensor:
    """``x`` divided by its e8m0 ``scale`` and rounded to ``element``, as float32."""
    scaled = x.float() / expand_groups(decode_e8m0(scale), x.shape[-1], MX_GROUP)
    if element == "e4m3":
        return scaled.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).float()
    return round_to(scaled, MINIFLOATS[element])


def nvfp4_scale_2(x: torch.Tensor) -> torch.Tensor:
    """The second scale of ``x`` [..., N, K], float32 [...]: no group's e4m3 scale saturates."""
    amax = x.float().abs().amax(dim=(-2, -1))
    return quotient(amax, E2M1.max * E4M3_MAX).clamp(min=torch.finfo(torch.float32).tiny)


def nvfp4_scale(x: torch.Tensor, scale_2: torch.Tensor) -> torch.Tensor:
    """The e4m3 scales of groups of 16 of ``x`` [..., K]: [..., ceil(K / 16)].

    ``scale_2`` broadcasts against the result. No scale is below the smallest normal number.
    """
    scale = quotient(_group_amax(x, NVFP4_GROUP), E2M1.max) / scale_2
    return scale.clamp(_E4M3_TINY, E4M3_MAX).to(torch.float8_e4m3fn)


def round_nvfp4(x: torch.Tensor, scale: torch.Tensor, scale_2: torch.Tensor) -> torch.Tensor:
    """``x`` divided by both scales and rounded to e2m1, as float32."""
    # Multiplied by the reciprocal, as NVIDIA's kernels do: the last bit depends on it.
    reciprocal = (1.0 / scale_2) / scale.float()
    return round_to(x.float() * expand_groups(reciprocal, x.shape[-1], NVFP4_GROUP), E2M1)
