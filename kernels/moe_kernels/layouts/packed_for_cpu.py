"""Weights packed for torch's CPU products (:mod:`moe_kernels.cpu.packed_weights`) when loaded.

Packed weights take no more memory than they came with: formats that torch has no product for stay
as they are (:mod:`moe_kernels.experts.cpu_products` converts them block by block in every call),
unless they may be dequantized when they are loaded.
"""

from __future__ import annotations

import torch

from moe_kernels.cpu import onednn
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
from moe_rules.vocabulary.quant_keys import QuantKey


def packed_where_possible(
    kernel_name: str, weights: LayerWeights, dtype: torch.dtype, dequantize: bool = False
) -> LayerWeights:
    """``weights`` with their values packed, if torch multiplies these on this CPU, else themselves.

    ``weights``: of ``kernel_name``, in the layout of :mod:`moe_kernels.quantization.schemes`.
    ``dtype``: the layer's. ``dequantize``: of what else cannot be packed there may be copies in
    ``dtype``, or in float32 where this CPU has no products of ``dtype``, if the kernel leaves
    activations as they are. w13 and w2 of the result only stand for the packed weights
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
        product = _pack(w.detach(), scale, zero_point, fmt)
        if product is None and copies:
            product = _pack_copies(w.detach(), scale, zero_point, weights.weight_key, dtype)
        return product

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
    """The weights [E, N, K] of one GEMM, or None if torch does not multiply them fast."""
    if fmt is None and onednn.multiplies(w.dtype):
        return PackedUnquantized([_reordered(e) for e in w])
    if fmt == "int8" and scale is not None and zero_point is None:
        if not onednn.multiplies(w.dtype) or scale.shape != (*w.shape[:2], 1):
            return None
        prepack = torch.ops.onednn.qlinear_prepack
        zeros = torch.zeros(w.shape[1], dtype=torch.int32)
        return PackedInt8([prepack(e, None) for e in w], scale[..., 0].float().contiguous(), zeros)
    return None


def _pack_copies(
    w: torch.Tensor,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    key: QuantKey | None,
    dtype: torch.dtype,
) -> PackedUnquantized | None:
    """The values of [E, N, K] as ``dtype``, or as float32, or None if oneDNN multiplies neither."""
    multiplied = next((d for d in (dtype, torch.float32) if onednn.multiplies(d)), None)
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

    return PackedUnquantized([_reordered(copy(e)) for e in range(len(w))])


def _reordered(w: torch.Tensor) -> torch.Tensor:
    """``w`` [N, K] in the layout of oneDNN."""
    reorder = torch.ops.mkldnn._reorder_linear_weight
    packed: torch.Tensor = reorder(w.contiguous(), _PACKED_FOR_TOKENS)
    return packed
