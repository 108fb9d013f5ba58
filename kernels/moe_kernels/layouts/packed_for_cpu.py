"""Weights packed for torch's CPU products (:mod:`moe_kernels.cpu.packed_weights`) when loaded.

Packed weights take no more memory than they came with. Most stay as they are, for products that are
compiled for them (:mod:`moe_kernels.cpu.compiled`). Where there may be copies that are packed for
many tokens, what they were made of stays for few.
"""

from __future__ import annotations

import torch

from moe_kernels.cpu import onednn
from moe_kernels.cpu.compiled import stored
from moe_kernels.cpu.packed_weights import (
    PackedInt8,
    PackedProduct,
    PackedUnquantized,
    PackedWeights,
    stand_in,
)
from moe_kernels.layouts.weights import LayerWeights
from moe_kernels.quantization.schemes import (
    QuantizedWeight,
    dequantize_weight,
    quantization_format,
)
from moe_rules.vocabulary.quant_keys import TENSOR, QuantKey


def packed_where_possible(
    kernel_name: str, weights: LayerWeights, dtype: torch.dtype, dequantize: bool = False
) -> LayerWeights:
    """``weights`` with their values packed, if that is fastest on this CPU, else themselves.

    ``weights``: of ``kernel_name``, in the layout of :mod:`moe_kernels.quantization.schemes`.
    ``dtype``: the layer's. ``dequantize``: if the kernel leaves activations as they are, there may
    be copies beside the weights, in ``dtype``, or where neither this CPU nor what is compiled has
    products of it, in float32. w13 and w2 of the result only stand for the packed weights
    (:func:`moe_kernels.cpu.packed_weights.stands_for_packed`).
    """
    if weights.w13.device.type != "cpu":
        return weights
    fmt = None if weights.weight_key is None else quantization_format(weights.weight_key)
    if (kernel_name, fmt) == ("CPUExpertsInt4", "int8"):
        return weights  # INT4 stored as INT8: whether activations are quantized is not known here
    copies = dequantize and kernel_name != "CPUExpertsFp8W8A8" and fmt != "int8"

    def pack(
        w: torch.Tensor, scale: torch.Tensor | None, zero_point: torch.Tensor | None
    ) -> PackedProduct | None:
        w = w.detach()
        if copies:
            return _pack_copies(w, scale, zero_point, weights.weight_key, dtype)
        return _pack(w, scale, zero_point, fmt)

    w13 = pack(weights.w13, weights.w13_scale, weights.w13_zp)
    w2 = None if w13 is None else pack(weights.w2, weights.w2_scale, weights.w2_zp)
    if w13 is None or w2 is None:
        return weights
    return weights._replace(
        w13=stand_in(weights.w13), w2=stand_in(weights.w2), packed=PackedWeights(w13, w2)
    )


_PACKED_FOR_TOKENS = 16
"""The tokens per expert that oneDNN is asked to choose a layout for; any number is multiplied."""


def _pack(
    w: torch.Tensor,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    fmt: str | None,
) -> PackedProduct | None:
    """The weights [E, N, K] of one GEMM, or None where packing is not the fastest."""
    if fmt is None and onednn.multiplies(w.dtype) and stored(w) is None:
        return PackedUnquantized([_reordered(e) for e in w])
    if fmt == "int8" and scale is not None and zero_point is None:
        if not onednn.multiplies(w.dtype) or scale.shape != (*w.shape[:2], 1):
            return None
        prepack = torch.ops.onednn.qlinear_prepack
        zeros = w.new_zeros(w.shape[1], dtype=torch.int32)
        return PackedInt8([prepack(e, None) for e in w], scale[..., 0].float().contiguous(), zeros)
    return None


def _pack_copies(
    w: torch.Tensor,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    key: QuantKey | None,
    dtype: torch.dtype,
) -> PackedUnquantized | None:
    """The values of [E, N, K] as ``dtype``, or as float32, or None if there is no use for these."""
    fmt, groups = (None, TENSOR)
    if key is not None:
        fmt, groups = quantization_format(key), key.scale.group_shape
    kept = stored(w, fmt, scale, zero_point, groups)
    # What is compiled is faster than copies in float32, but for prompts of hundreds of tokens.
    dtypes = (dtype, torch.float32) if kept is None else (dtype,)
    multiplied = next((d for d in dtypes if onednn.multiplies(d)), None)
    if multiplied is None or (
        key is None and torch.promote_types(w.dtype, multiplied) != multiplied
    ):
        return None

    def copy(e: int) -> torch.Tensor:
        if key is None:
            return w[e].to(multiplied)
        assert scale is not None
        zero = None if zero_point is None else zero_point[e]
        return dequantize_weight(QuantizedWeight(w[e], scale[e], zero), key, multiplied)

    return PackedUnquantized([_reordered(copy(e)) for e in range(len(w))], kept)


def _reordered(w: torch.Tensor) -> torch.Tensor:
    """``w`` [N, K] in the layout of oneDNN."""
    reorder = torch.ops.mkldnn._reorder_linear_weight
    packed: torch.Tensor = reorder(w.contiguous(), _PACKED_FOR_TOKENS)
    return packed
