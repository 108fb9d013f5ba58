"""Quantized weights as the Triton kernels that unpack them in registers read them fastest.

4-bit codes are in words (:mod:`moe_kernels.quantization.words`). Scales and zero points keep their
shapes, [E, N, groups], but lie in memory with N contiguous, since a tile reads one group of many
rows.
"""

from __future__ import annotations

from moe_kernels.layouts.weights import LayerWeights
from moe_kernels.quantization.schemes import quantization_format
from moe_kernels.quantization.words import WORD_FORMATS, to_words

_LARGEST_E8M0 = 192
"""2^65. Larger powers, which no weight has, leave bfloat16's range on the way."""


def unpacked_in_triton(weights: LayerWeights) -> LayerWeights:
    """``weights`` in a format of :mod:`moe_kernels.quantization.schemes`, laid out for Triton.

    Raises ValueError for MXFP4 scales above 2^65.
    """
    assert weights.weight_key is not None
    fmt = quantization_format(weights.weight_key)
    changes = {
        name: scale.transpose(1, 2).contiguous().transpose(1, 2)
        for name in ("w13_scale", "w2_scale", "w13_zp", "w2_zp")
        if (scale := getattr(weights, name)) is not None
    }
    if fmt == "mxfp4":
        largest = max(int(scale.max()) for scale in weights.required_scales() if scale.numel())
        if largest > _LARGEST_E8M0:
            raise ValueError(
                f"an MXFP4 scale is 2^{largest - 127}; expected at most 2^{_LARGEST_E8M0 - 127}"
            )
    if fmt in WORD_FORMATS:
        changes |= {name: to_words(getattr(weights, name), fmt) for name in ("w13", "w2")}
    return weights._replace(**changes)
