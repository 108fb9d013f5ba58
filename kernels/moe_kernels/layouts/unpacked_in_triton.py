"""Quantized weights as the Triton kernels that unpack them in registers read them fastest.

Codes are in words (:mod:`moe_kernels.quantization.words`), but for MXFP8's. Scales, and zero points
in their dtype, are in units of 32 bits, which is the least that GPUs copy on their own: 4 e8m0 or
e4m3, 2 bf16 or fp16, 1 float32. A unit has neighbouring groups of one row, and the units of many
rows are neighbours, since that is what a tile reads: [E, units, N, groups of a unit].
"""

from __future__ import annotations

from typing import Any

import torch

from moe_kernels.layouts.weights import LayerWeights
from moe_kernels.quantization.schemes import quantization_format
from moe_kernels.quantization.words import WORD_FORMATS, to_words

_LARGEST_E8M0 = 192
"""2^65. Larger powers, which no weight has, leave bfloat16's range on the way."""


def in_units(groups: torch.Tensor) -> torch.Tensor:
    """[E, N, groups] as [E, units, N, groups of a unit], the last unit filled up with zeros."""
    per_unit = 4 // groups.element_size()
    # torch does not pad FP8.
    bits = groups.view(torch.uint8) if per_unit == 4 else groups
    filled = torch.nn.functional.pad(bits, (0, -groups.shape[2] % per_unit)).view(groups.dtype)
    num_experts, rows, count = filled.shape
    units = filled.view(num_experts, rows, count // per_unit, per_unit)
    return units.transpose(1, 2).contiguous()


def unpacked_in_triton(weights: LayerWeights) -> LayerWeights:
    """``weights`` in a format of :mod:`moe_kernels.quantization.schemes`, laid out for Triton.

    Raises ValueError for MXFP4 scales above 2^65.
    """
    assert weights.weight_key is not None
    fmt = quantization_format(weights.weight_key)
    changes: dict[str, Any] = {}
    for name in ("w13", "w2"):
        scale, zero_point = getattr(weights, f"{name}_scale"), getattr(weights, f"{name}_zp")
        if scale.element_size() == 2 and scale.shape[2] % 2:
            scale = scale.float()  # exact, and so that units are full
        changes[f"{name}_scale"] = in_units(scale)
        if zero_point is not None:
            changes[f"{name}_zp"] = in_units(zero_point.to(scale.dtype))
    if fmt == "mxfp4":
        scales = weights.required_scales()
        largest = max((int(scale.max()) for scale in scales if scale.numel()), default=0)
        if largest > _LARGEST_E8M0:
            raise ValueError(
                f"an MXFP4 scale is 2^{largest - 127}; expected at most 2^{_LARGEST_E8M0 - 127}"
            )
    if fmt in WORD_FORMATS:
        changes |= {name: to_words(getattr(weights, name), fmt) for name in ("w13", "w2")}
    return weights._replace(**changes)
